"""The Kaggle set "LIDC-IDRI-slices": ready-made 128 x 128 crops around LIDC nodules.

`LIDC-IDRI-NNNN/nodule-K/images/slice-I.png`, where nodule-K is the K-th of pylidc's `cluster_annotations()`.
The crops were min-max scaled one by one, so they are grey values and not HU, and keep the native resolution.
Labels come from the radiologists' annotations, not from the set.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources.base import BENIGN, MALIGNANT, Bag, Inventory, Item, Refusal, Source, list_files
from lungtl.sources.base import fingerprint as fingerprint_of
from lungtl.sources.lidc_database import Scan, read_scans, series_uids
from lungtl.sources.lidc_labels import LabelDefinition
from lungtl.sources.lidc_nodules import Nodule, cluster_nodules

DEPTHS = ("", "*/", "*/*/")  # the archive's own top folder, sometimes unpacked into one of the same name
UNPACK_AGAIN = "unpack the archive again, or remove the folder"


@dataclass(frozen=True)
class Crops:
    """One nodule folder that counts.

    Attributes:
        files: its PNGs in the order of their numbers.
        hashes: SHA-256 of each file.
        row: the nodule's row of `nodules.parquet`.
    """

    files: tuple[Path, ...]
    hashes: tuple[str, ...]
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Content:
    """What `load` needs, so that it need not read the database again."""

    patient_id: str
    crops: tuple[Crops, ...]
    pixel_spacing_mm: float
    native_spacing_mm: float


@dataclass(frozen=True)
class LidcSlicesSource(Source):
    """Bags of LIDC-IDRI-slices crops: one a nodule, or one a patient.

    Attributes:
        root: the folder LIDC-IDRI-slices, or one above it.
        bag: what gets one probability; a patient's bag has the slices of all its nodules that count.
        min_readers: leave out nodules that fewer radiologists marked.
        indeterminate: leave out ("exclude") nodules that the rule puts exactly at the threshold.
        rule: how the readers' malignancy ratings become one number.
        threshold: a nodule is malignant when that number reaches it.
        name: first part of the store's name.
    """

    root: str
    bag: Literal["nodule", "patient"] = "nodule"
    min_readers: int = 3
    indeterminate: Literal["exclude", "keep"] = "exclude"
    rule: Literal["mean", "median", "max"] = "median"
    threshold: float = 3.0
    name: str = "lidc_slices"

    value_range = (0, 255)

    def recipe(self) -> dict[str, Any]:
        """Give all options but the folder and the name."""
        options = {key: value for key, value in asdict(self).items() if key not in {"root", "name"}}
        return {"kind": "lidc_slices", **options}

    def listing(self) -> str:
        """Hash names, sizes and times of the set's files."""
        return list_files(sorted({folder.parent for folder in self._patient_folders().values()}))

    def inventory(self, workers: int = 1) -> Inventory:
        """Match the folders with the annotated nodules; patients with two scans are ambiguous and refused."""
        patients = self._patient_folders()
        scans = _scans(patients)
        items: list[Item] = []
        refusals: list[Refusal] = []
        for patient_id, folder in patients.items():
            if len(scans[patient_id]) == 1:
                found, refused = self._patient(folder, scans[patient_id][0])
                items += found
                refusals += refused
            else:
                n_folders = sum(1 for _ in folder.glob("nodule-*"))
                reason = (
                    f"LIDC-IDRI has {len(scans[patient_id])} scans of this patient, wanted 1: "
                    f"whose nodules the {n_folders} nodule folders number is unknown"
                )
                refusals.append(Refusal(patient_id, reason, "nothing to do: it stays left out"))
        if not items:
            why = "; ".join(f"{each.item}: {each.reason}" for each in refusals[:1]) or "the options exclude all"
            raise LungtlError(
                f"none of {len(patients)} patients below {self.root} can be used ({why}); "
                "lower dataset.min_readers, or set dataset.root=FOLDER"
            )
        return Inventory(tuple(items), tuple(refusals))

    def load(self, item: Item) -> Bag:
        """Read the PNGs of one bag."""
        content: Content = item.content
        slices = [_read_png(file) for crops in content.crops for file in crops.files]
        sizes = " and ".join(sorted({f"{len(image)} x {image.shape[1]}" for image in slices}))
        if " and " in sizes:
            raise Refused(f"the slices of {item.bag_id} have {sizes} pixels, wanted one size", UNPACK_AGAIN)
        labels = [crops.row["label"] for crops in content.crops for _ in crops.files]
        rows = tuple(crops.row for crops in content.crops)
        counts = {"n_readers": rows[0]["n_readers"]} if self.bag == "nodule" else {"n_nodules": len(rows)}
        return Bag(
            bag_id=item.bag_id,
            patient_id=content.patient_id,
            voxels=np.stack(slices).astype(np.int16),
            # By ascending z, but some folders have more or fewer PNGs than the annotations have positions.
            z_mm=np.full(len(slices), np.nan),
            slice_labels=np.array(labels, dtype=np.int8),
            bag_label=int(MALIGNANT in labels),
            pixel_spacing_mm=(content.pixel_spacing_mm, content.pixel_spacing_mm),
            diameter_mm=max(row["diameter_mm"] for row in rows),
            nodules=rows,
            details={**counts, "native_spacing_mm": content.native_spacing_mm},
        )

    def _patient_folders(self) -> dict[str, Path]:
        """Find the folder of each patient."""
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise LungtlError(f"{self.root} is not a folder, wanted LIDC-IDRI-slices; set dataset.root=FOLDER")
        for depth in DEPTHS:
            # nodule-* keeps the DICOM download out, whose patient folders have the same names.
            nodules = root.glob(f"{depth}LIDC-IDRI-[0-9][0-9][0-9][0-9]/nodule-*")
            folders = sorted({nodule.parent for nodule in nodules})
            if not any(True for folder in folders for _ in folder.glob("nodule-*/images/*.png")):
                continue
            by_patient = {folder.name: folder for folder in folders}
            if len(by_patient) < len(folders):
                twice = next(f for f in folders if by_patient[f.name] != f)
                raise LungtlError(
                    f"{twice.name} is both {twice} and {by_patient[twice.name]}, wanted one copy; "
                    "set dataset.root=FOLDER"
                )
            return dict(sorted(by_patient.items()))
        raise LungtlError(
            f"no PNG below {self.root}, wanted LIDC-IDRI-NNNN/nodule-K/images/slice-I.png; set dataset.root=FOLDER"
        )

    def _patient(self, folder: Path, scan: Scan) -> tuple[list[Item], list[Refusal]]:
        """Make the items and refusals of a patient with one scan."""
        nodules = cluster_nodules(scan)
        counted: dict[int, Crops] = {}
        refusals = []
        for path in sorted(folder.glob("nodule-*")):
            try:
                nodule = _nodule(path, nodules)
                if self._counts(nodule):
                    counted[nodule.number] = _crops(path / "images", self._row(nodule))
            except Refused as refused:
                refusals.append(Refusal(f"{folder.name}/{path.name}", refused.reason, refused.remedy))
        in_order = [counted[number] for number in sorted(counted)]
        bags: dict[str, tuple[Crops, ...]]
        if self.bag == "nodule":
            bags = {f"{folder.name}_nodule-{each.row['nodule']}": (each,) for each in in_order}
        elif refusals:  # a patient without one of the nodules could get the wrong label
            reason = "; ".join(f"{refusal.item}: {refusal.reason}" for refusal in refusals)
            return [], [Refusal(folder.name, reason, refusals[0].remedy)]
        else:
            bags = {folder.name: tuple(in_order)} if in_order else {}
        contents = {
            bag_id: Content(folder.name, crops, scan.pixel_spacing_mm, scan.native_spacing_mm)
            for bag_id, crops in bags.items()
        }
        return [Item(bag_id, _fingerprint(content), content) for bag_id, content in contents.items()], refusals

    def _counts(self, nodule: Nodule) -> bool:
        labels = LabelDefinition(self.rule, self.threshold, self.indeterminate, self.min_readers)
        return not labels.why_left_out(nodule)

    def _row(self, nodule: Nodule) -> dict[str, Any]:
        low, high = nodule.z_range_mm
        malignant = nodule.is_malignant(self.rule, self.threshold)
        return {
            "nodule": nodule.number,
            "malignancy": nodule.malignancy("mean"),
            "n_readers": len(nodule.annotations),
            "malignancy_median": nodule.malignancy("median"),
            "ratings": " ".join(map(str, nodule.malignancy_ratings)),
            "z_min": low,
            "z_max": high,
            "diameter_mm": nodule.diameter_mm,
            "malignant": malignant,
            "label": MALIGNANT if malignant else BENIGN,
        }


def _scans(patients: Iterable[str]) -> dict[str, list[Scan]]:
    """Read the LIDC scans of the patients; an unknown patient has none."""
    by_patient: dict[str, list[Scan]] = defaultdict(list)
    wanted = set(patients)
    for scan in read_scans(uid for uid, patient in series_uids().items() if patient in wanted):
        by_patient[scan.patient_id].append(scan)
    return by_patient


def _nodule(folder: Path, nodules: list[Nodule]) -> Nodule:
    """Look up the annotated nodule that a folder's number stands for."""
    match = re.fullmatch(r"nodule-(0|[1-9][0-9]*)", folder.name)
    if not match or int(match[1]) >= len(nodules):
        wanted = f"nodule-0 to nodule-{len(nodules) - 1}" if nodules else "none"
        raise Refused(f"{folder.name} is not among the LIDC annotations, wanted {wanted}", UNPACK_AGAIN)
    return nodules[int(match[1])]


def _crops(folder: Path, row: Mapping[str, Any]) -> Crops:
    """Order the PNGs of a nodule by their numbers: slice-10 comes after slice-9."""
    by_number: dict[int, Path] = {}
    for file in sorted(folder.glob("[!.]*.png")):  # macOS puts ._slice-0.png beside slice-0.png
        match = re.fullmatch(r"slice-([0-9]+)\.png", file.name)
        if not match or int(match[1]) in by_number:
            raise Refused(f"images/{file.name} is misnamed, wanted slice-I.png, each I once", "remove or rename it")
        by_number[int(match[1])] = file
    if not by_number:
        raise Refused("no PNG in its images folder", UNPACK_AGAIN)
    files = tuple(by_number[number] for number in sorted(by_number))
    try:
        return Crops(files, tuple(hashlib.sha256(file.read_bytes()).hexdigest() for file in files), row)
    except OSError as error:
        raise Refused(f"{error.filename} cannot be read ({error.strerror})", "check its permissions") from error


def _fingerprint(content: Content) -> str:
    made_of = [[crops.hashes, dict(crops.row)] for crops in content.crops]
    return fingerprint_of([made_of, content.pixel_spacing_mm, content.native_spacing_mm])


def _read_png(file: Path) -> NDArray[np.uint8]:
    where = "/".join(file.parts[-3:])
    try:
        with Image.open(file, formats=("PNG",)) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise Refused(f"{where} is not a readable PNG ({error})", UNPACK_AGAIN) from error
    if mode != "L":
        raise Refused(f"{where} has mode {mode}, wanted L (8-bit grey)", "convert it to 8-bit grey")
    return pixels
