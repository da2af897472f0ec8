"""Your own scans or nodules: a folder of DICOM series and a table of labels. Slice labels are unknown."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt

from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sources.base import UNKNOWN, Bag, Inventory, Item, Refusal, Source, fingerprint
from lungtl.sources.ct.cut import DEPTH_MM, FIELD_MM, cut_nodule
from lungtl.sources.ct.encoding import decoders
from lungtl.sources.ct.prepare import prepare_series, series_details
from lungtl.sources.ct.series import MAX_GB, Series, check_gap, find_series
from lungtl.sources.ct.volume import SLICE_STEP_MM
from lungtl.sources.density import PERCENTILE, greatest_density
from lungtl.sources.files import labelled_lines, listing_hash, read_csv
from lungtl.sources.points import Point, has_points, read_points

COLUMNS = ("series_uid", "patient_id", "label")


@dataclass(frozen=True)
class DicomSource(Source):
    """DICOM series labelled by a table, or nodules cut out of them if the table has their positions."""

    root: str  # folder with the series, in any layout
    table: str  # CSV file, see `read_table` and `read_points`
    bag: Literal["nodule", "patient"] = "nodule"  # of a table with positions; patient: the slices of all his nodules
    field_mm: Annotated[float, Gt(0)] = FIELD_MM  # side of the square around a nodule
    depth_mm: Annotated[float, Gt(0)] = DEPTH_MM  # length along z of a nodule whose diameter is unknown
    max_gap_mm: float = 10.0  # refuse a series with a larger gap between neighbouring slices
    crop: Literal["none", "lungs"] = "none"  # crop all slices to one square around the lungs
    max_gb: Annotated[float, Gt(0)] = MAX_GB  # refuse a series that needs more memory, native and at 1 mm
    follow_links: bool = False  # read what links out of the folder lead to
    name: str = "dicom"  # first part of the store's name

    slice_step_mm = SLICE_STEP_MM

    def recipe(self) -> dict[str, Any]:
        limit = {} if self.max_gb == MAX_GB else {"max_gb": self.max_gb}
        cut = {"bag": self.bag, "field_mm": float(self.field_mm), "depth_mm": float(self.depth_mm),
               "density": PERCENTILE}  # fmt: skip
        return {"kind": "dicom", "max_gap_mm": self.max_gap_mm, "crop": self.crop, **limit,
                **(cut if self._has_points else {})}  # fmt: skip

    def listing(self) -> str:
        for option, path, expected in (("root", self._root, "a folder"), ("table", self._table, "a CSV file")):
            if not path.exists():
                raise LungtlError(f"dataset.{option}={path} does not exist; set dataset.{option} to {expected}")
        if self.crop != "none" and self._has_points:
            raise UsageError(f"dataset.crop={self.crop} is for whole scans; for a table of nodules use field_mm")
        return fingerprint([listing_hash([self._root, self._table], self.follow_links), decoders()])

    def inventory(self, workers: int = 1) -> Inventory:
        points = self._has_points
        rows: Mapping[str, Any] = read_points(self._table) if points else read_table(self._table)
        found, refusals = find_series(self._root, workers=workers, max_gb=self.max_gb, follow_links=self.follow_links)
        refused = {refusal.item for refusal in refusals}
        missing = sorted(set(rows) - {series.uid for series in found} - refused)
        if missing:
            raise LungtlError(
                f"{self._table.name}: {len(missing)} of {len(rows)} series_uid are not in {self._root}, the first is "
                f"{missing[0]}; add the series or omit the rows"
            )
        listed = [(series, rows[series.uid]) for series in found if series.uid in rows]
        for series in found:
            if series.uid not in rows:
                refusals.append(Refusal(series.uid, f"not in {self._table.name}", "add a row to use this series"))
        if points:
            items = self._nodule_items(listed, refusals)
        else:
            items = [Item(series.uid, fingerprint([series.fingerprint, row]), (series, row)) for series, row in listed]
        return Inventory(tuple(items), tuple(refusals))

    def load(self, item: Item) -> Bag:
        series, content = item.content
        return self._load_scan(series, content) if isinstance(content, dict) else self._load_nodules(item)

    def _load_scan(self, series: Series, row: dict[str, Any]) -> Bag:
        volume, details = prepare_series(series, self.max_gap_mm, self.crop)
        return Bag(
            bag_id=series.uid,
            patient_id=row["patient_id"],
            voxels=volume.hu,
            z_mm=volume.z_mm,
            slice_labels=np.full(len(volume.hu), UNKNOWN, dtype=np.int8),
            bag_label=row["label"],
            pixel_spacing_mm=series.pixel_spacing_mm,
            split=row["split"],
            details=details,
        )

    def _nodule_items(self, pairs: list[tuple[Series, list[Point]]], refusals: list[Refusal]) -> list[Item]:
        """The points, or the patients who have some; adds patients of several series to `refusals`."""
        bags: list[tuple[str, Series, tuple[Point, ...]]] = []
        if self.bag == "nodule":
            bags = [(f"{series.uid}_{point.number}", series, (point,)) for series, own in pairs for point in own]
        else:
            by_patient: dict[str, list[tuple[Series, list[Point]]]] = defaultdict(list)
            for series, own in pairs:
                by_patient[own[0].patient_id].append((series, own))
            for patient_id, several in sorted(by_patient.items()):
                if len(several) == 1:
                    ((series, own),) = several
                    bags.append((patient_id, series, tuple(own)))
                else:  # their pixel spacings may differ
                    reason = f"{len(several)} series of this patient, expected 1 with dataset.bag=patient"
                    refusals.append(Refusal(patient_id, reason, "give the nodules of one series"))
        return [
            Item(bag_id, fingerprint([series.fingerprint, [astuple(point) for point in own]]), (series, own))
            for bag_id, series, own in bags
        ]

    def _load_nodules(self, item: Item) -> Bag:
        """Cut nodules out: the 1 mm slices within their diameter or `depth_mm`; raises Refused if one is outside."""
        series, points = item.content
        check_gap(series, self.max_gap_mm)
        cuts = [
            cut_nodule(series, point.position_mm, point.diameter_mm, self.field_mm, self.depth_mm) for point in points
        ]
        voxels = [cut.hu for cut in cuts]
        count = sum(map(len, voxels))
        labels, splits = {point.label for point in points}, sorted({str(point.split or "") for point in points})
        if len(splits) > 1:
            raise LungtlError(f"{item.bag_id} is in the splits {' and '.join(map(repr, splits))}; give it one split")
        x, y, z = points[0].position_mm
        place = {"x_mm": x, "y_mm": y, "z_mm": z} if self.bag == "nodule" else {"n_nodules": len(points)}
        return Bag(
            bag_id=item.bag_id,
            patient_id=points[0].patient_id,
            voxels=np.concatenate(voxels),
            z_mm=cuts[0].z_mm if self.bag == "nodule" else np.full(count, math.nan),  # nodules share positions
            slice_labels=np.full(count, UNKNOWN, dtype=np.int8),
            bag_label=1 if 1 in labels else min(labels),
            pixel_spacing_mm=series.pixel_spacing_mm,
            split=points[0].split,
            diameter_mm=float(np.max([point.diameter_mm for point in points])),  # NaN if one is unknown
            details={
                **place,
                **series_details(series),
                "density": greatest_density(voxels, series.pixel_spacing_mm, [point.diameter_mm for point in points]),
            },
        )

    @property
    def _has_points(self) -> bool:
        return self._table.is_file() and has_points(read_csv(self._table)[0])

    @property
    def _root(self) -> Path:
        return Path(self.root).expanduser()

    @property
    def _table(self) -> Path:
        return Path(self.table).expanduser()


def read_table(path: Path) -> dict[str, dict[str, Any]]:
    """Read and check the label table: series_uid -> {patient_id, label (-1, 0, 1), split (str or None)}.

    Columns are series_uid, patient_id (use pseudonyms), label (0, 1, or empty for unknown) and optionally split (train,
    val, test). Scans of one patient may have different labels, as before and after a cancer appeared.
    """
    rows: dict[str, dict[str, Any]] = {}
    for where, line, label in labelled_lines(path, COLUMNS):
        uid, patient = line["series_uid"], line["patient_id"]
        if not patient:
            raise LungtlError(f"{where}: no patient_id; fill it in")
        if uid in rows:
            raise LungtlError(f"{where}: series_uid {uid} is repeated; keep one row per series")
        rows[uid] = {"patient_id": patient, "label": label, "split": line.get("split") or None}
    return rows
