"""The Kaggle dataset "LIDC-IDRI-slices": ready-made 128 x 128 crops around LIDC nodules.

Files are `LIDC-IDRI-NNNN/nodule-K/images/slice-I.png`, where K is the index in pylidc's `cluster_annotations()`. Each
crop was min-max scaled on its own, so values are grey levels and not HU; slices have their native resolution. Labels
come from the radiologists' annotations, not from the dataset.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources.base import MALIGNANT, UNKNOWN, Bag, Inventory, Item, Refusal, Source, fingerprint
from lungtl.sources.density import PERCENTILE, greatest_density
from lungtl.sources.files import listing_hash
from lungtl.sources.lidc_database import Scan, read_scans, series_uids
from lungtl.sources.lidc_labels import RATING, LabelDefinition, mean_ratings, nodule_row, reader_votes
from lungtl.sources.lidc_nodules import Nodule, cluster_nodules

DEPTHS = ("", "*/", "*/*/")  # the archive's top folder, sometimes extracted into one of the same name
EXTRACT_AGAIN = "extract the archive again, or remove the folder"
COLUMNS = ("nodule", "malignancy", "n_readers", "malignancy_median", "ratings", "z_min", "z_max", "diameter_mm",
           "malignant")  # fmt: skip


@dataclass(frozen=True)
class Crops:
    """The crops of one nodule."""

    files: tuple[Path, ...]  # its PNGs in the order of their numbers
    hashes: tuple[str, ...]  # SHA-256 of each file
    row: Mapping[str, Any]  # the nodule's row of `nodules.parquet`


@dataclass(frozen=True)
class Content:
    """Everything that `load` requires, so that it does not read the database again."""

    patient_id: str
    crops: tuple[Crops, ...]
    pixel_spacing_mm: float
    native_spacing_mm: float

    @property
    def fingerprint(self) -> str:
        """Hash of the pixels, the nodules' rows and the spacing."""
        crops = [[each.hashes, dict(each.row)] for each in self.crops]
        return fingerprint([crops, self.pixel_spacing_mm, self.native_spacing_mm])


@dataclass(frozen=True)
class LidcSlicesSource(Source):
    """Bags of LIDC-IDRI-slices crops, one per nodule or per patient."""

    root: str  # the folder LIDC-IDRI-slices, or a folder above it
    bag: Literal["nodule", "patient"] = "nodule"  # a patient's bag has the slices of all nodules that count
    min_readers: int = 3  # see `LabelDefinition`, also for the next three options
    indeterminate: Literal["exclude", "keep"] = "exclude"
    rule: Literal["mean", "median", "max"] = "median"
    threshold: float = 3.0
    uncounted: Literal["drop", "train"] = "drop"  # nodules that do not count; train: without a label, for `loss=votes`
    name: str = "lidc_slices"  # first part of the store's name

    value_range = (0, 255)

    def recipe(self) -> dict[str, Any]:
        options = {key: value for key, value in asdict(self).items() if key not in {"root", "name"}}
        return {"kind": "lidc_slices", "density": PERCENTILE, **options}

    def listing(self) -> str:
        return listing_hash(sorted({folder.parent for folder in self._patient_folders().values()}))

    def inventory(self, workers: int = 1) -> Inventory:
        """Match the folders with the annotated nodules; patients with two scans are ambiguous and refused."""
        patients = self._patient_folders()
        scans = _scans(patients)
        items: list[Item] = []
        refusals: list[Refusal] = []
        for patient_id, folder in patients.items():
            if len(scans[patient_id]) == 1:
                new_items, new_refusals = self._patient(folder, scans[patient_id][0])
                items += new_items
                refusals += new_refusals
            else:
                reason = (
                    f"LIDC-IDRI has {len(scans[patient_id])} scans of this patient, expected 1: the "
                    f"{sum(1 for _ in folder.glob('nodule-*'))} nodule folders cannot be assigned to a scan"
                )
                refusals.append(Refusal(patient_id, reason, "no action required: the patient is skipped"))
        if not items:
            why = f"{refusals[0].item}: {refusals[0].reason}" if refusals else "the options exclude all"
            raise LungtlError(
                f"none of {len(patients)} patients in {self.root} can be used ({why}); "
                "lower dataset.min_readers, or set dataset.root=FOLDER"
            )
        return Inventory(tuple(items), tuple(refusals))

    def load(self, item: Item) -> Bag:
        content: Content = item.content
        nodules = [[_read_png(file) for file in crops.files] for crops in content.crops]
        slices = [image for images in nodules for image in images]
        sizes = sorted({f"{len(image)} x {image.shape[1]}" for image in slices})
        if len(sizes) > 1:
            raise Refused(f"slices have {' and '.join(sizes)} pixels, expected one size", EXTRACT_AGAIN)
        labels = [crops.row["label"] for crops in content.crops for _ in crops.files]
        rows = tuple(crops.row for crops in content.crops)
        spacing = (content.pixel_spacing_mm, content.pixel_spacing_mm)
        crops = [np.stack(images).astype(np.int16) for images in nodules]
        counts = {"n_readers": rows[0]["n_readers"]} if self.bag == "nodule" else {"n_nodules": len(rows)}
        return Bag(
            bag_id=item.bag_id,
            patient_id=content.patient_id,
            voxels=np.stack(slices).astype(np.int16),
            # Sorted by z, but some folders have more or fewer PNGs than annotated positions.
            z_mm=np.full(len(slices), np.nan),
            slice_labels=np.array(labels, dtype=np.int8),
            bag_label=UNKNOWN if UNKNOWN in labels else int(MALIGNANT in labels),
            pixel_spacing_mm=spacing,
            votes=max(reader_votes([int(rating) for rating in row["ratings"].split()]) for row in rows),
            diameter_mm=max(row["diameter_mm"] for row in rows),
            nodules=rows,
            # of the densest nodule, as the diameter is that of the largest
            details={
                **counts,
                "native_spacing_mm": content.native_spacing_mm,
                "density": greatest_density(crops, spacing, [row["diameter_mm"] for row in rows]),
                **_ratings_of_largest(rows),
            },
        )

    def _patient_folders(self) -> dict[str, Path]:
        """Patient id -> folder."""
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise LungtlError(f"{self.root} is not a folder, expected LIDC-IDRI-slices; set dataset.root=FOLDER")
        for depth in DEPTHS:
            # nodule-* excludes the DICOM download, whose patient folders have the same names.
            nodules = root.glob(f"{depth}LIDC-IDRI-[0-9][0-9][0-9][0-9]/nodule-*")
            folders = sorted({nodule.parent for nodule in nodules})
            if not any(True for folder in folders for _ in folder.glob("nodule-*/images/*.png")):
                continue
            by_patient = {folder.name: folder for folder in folders}
            for folder in folders:
                if by_patient[folder.name] != folder:
                    raise LungtlError(
                        f"{folder.name} is both in {folder} and in {by_patient[folder.name]}, expected one copy; "
                        "set dataset.root=FOLDER"
                    )
            return dict(sorted(by_patient.items()))
        raise LungtlError(
            f"no PNG in {self.root}, expected LIDC-IDRI-NNNN/nodule-K/images/slice-I.png; set dataset.root=FOLDER"
        )

    def _patient(self, folder: Path, scan: Scan) -> tuple[list[Item], list[Refusal]]:
        """The items and refusals of a patient with one scan."""
        nodules = cluster_nodules(scan)
        labels = LabelDefinition(self.rule, self.threshold, self.indeterminate, self.min_readers)
        counted: dict[int, Crops] = {}
        uncounted: dict[int, Crops] = {}
        refusals = []
        for path in sorted(folder.glob("nodule-*")):
            try:
                nodule = _nodule(path, nodules)
                if not labels.exclusion(nodule):
                    counted[nodule.number] = _crops(path / "images", _row(nodule, labels))
                elif self.uncounted == "train":
                    uncounted[nodule.number] = _crops(path / "images", _row(nodule, labels))
            except Refused as refused:
                refusals.append(Refusal(f"{folder.name}/{path.name}", refused.reason, refused.remedy))
        if self.bag == "nodule" or not counted:  # a patient's bag has a label, or none of its nodules has one
            counted |= uncounted
        crops = [counted[number] for number in sorted(counted)]
        bags: dict[str, tuple[Crops, ...]]
        if self.bag == "nodule":
            bags = {f"{folder.name}_nodule-{each.row['nodule']}": (each,) for each in crops}
        elif refusals:  # without one of the nodules, the patient's label could be wrong
            reason = "; ".join(f"{refusal.item}: {refusal.reason}" for refusal in refusals)
            return [], [Refusal(folder.name, reason, refusals[0].remedy)]
        else:
            bags = {folder.name: tuple(crops)} if crops else {}
        contents = {
            bag_id: Content(folder.name, each, scan.pixel_spacing_mm, scan.native_spacing_mm)
            for bag_id, each in bags.items()
        }
        return [Item(bag_id, content.fingerprint, content) for bag_id, content in contents.items()], refusals


def _scans(patients: Iterable[str]) -> dict[str, list[Scan]]:
    """The LIDC scans of each patient; none for an unknown patient."""
    by_patient: dict[str, list[Scan]] = defaultdict(list)
    known = set(patients)
    for scan in read_scans(uid for uid, patient in series_uids().items() if patient in known):
        by_patient[scan.patient_id].append(scan)
    return by_patient


def _row(nodule: Nodule, labels: LabelDefinition) -> dict[str, Any]:
    row = nodule_row(nodule, labels)
    return {column: row[column] for column in COLUMNS} | {"label": labels.nodule_label(nodule)} | mean_ratings(nodule)


def _ratings_of_largest(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean ratings of the largest nodule."""
    largest = max(rows, key=lambda row: row["diameter_mm"])
    return {name: value for name, value in largest.items() if name.startswith(RATING)}


def _nodule(folder: Path, nodules: list[Nodule]) -> Nodule:
    """The annotated nodule with the number of a folder."""
    match = re.fullmatch(r"nodule-(0|[1-9][0-9]*)", folder.name)
    if not match or int(match[1]) >= len(nodules):
        expected = f"nodule-0 to nodule-{len(nodules) - 1}" if nodules else "none"
        raise Refused(f"{folder.name} is not in the LIDC annotations, expected {expected}", EXTRACT_AGAIN)
    return nodules[int(match[1])]


def _crops(folder: Path, row: Mapping[str, Any]) -> Crops:
    """The PNGs of a nodule in the order of their numbers: slice-10 follows slice-9."""
    by_number: dict[int, Path] = {}
    for file in sorted(folder.glob("[!.]*.png")):  # macOS adds ._slice-0.png
        match = re.fullmatch(r"slice-([0-9]+)\.png", file.name)
        if not match or int(match[1]) in by_number:
            raise Refused(f"images/{file.name} has an unexpected name, expected slice-I.png with unique I", "rename it")
        by_number[int(match[1])] = file
    if not by_number:
        raise Refused("no PNG in its images folder", EXTRACT_AGAIN)
    files = tuple(by_number[number] for number in sorted(by_number))
    try:
        return Crops(files, tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files), row)
    except OSError as error:
        raise Refused(f"{error.filename} cannot be read ({error.strerror})", "check its permissions") from error


def _read_png(file: Path) -> NDArray[np.uint8]:
    where = "/".join(file.parts[-3:])
    try:
        with Image.open(file, formats=("PNG",)) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(f"{where} is not a readable PNG ({error})", EXTRACT_AGAIN) from error
    if mode != "L":
        raise Refused(f"{where} has mode {mode}, expected L (8-bit grey)", "convert it to 8-bit grey")
    return pixels
