"""Tables of points in CT series: nodules or candidates at a position in DICOM's patient coordinates."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from lungtl.settings.errors import LungtlError
from lungtl.sources.files import finite, labelled_lines
from lungtl.sources.lidc_database import series_uids

POSITION = ("x_mm", "y_mm", "z_mm")
LUNA16 = {"seriesuid": "series_uid", "coordX": "x_mm", "coordY": "y_mm", "coordZ": "z_mm", "class": "label"}
"""Columns of LUNA16's candidates.csv -> ours. Its world coordinates are DICOM's."""


@dataclass(frozen=True)
class Point:
    """One line of a table."""

    number: int  # among the lines of its series: 0, 1, ...
    patient_id: str
    label: int  # -1, 0, 1
    position_mm: tuple[float, float, float]  # x, y, z
    diameter_mm: float  # NaN if unknown
    split: str | None


def has_points(columns: list[str]) -> bool:
    """Whether a table with these columns has positions, so that its lines are nodules and not scans."""
    return set(POSITION) <= {LUNA16.get(column, column) for column in columns}


def read_points(path: Path, labelled: bool = True) -> dict[str, list[Point]]:
    """Read and check a table: series_uid -> its points in the table's order.

    Columns are series_uid, patient_id (use pseudonyms), label (0, 1, or empty for unknown), x_mm, y_mm, z_mm, and
    optionally diameter_mm and split (train, val, test); or those of LUNA16's candidates.csv, whose patients are looked
    up in LIDC-IDRI.

    Args:
        path: of the table.
        labelled: False: points to be predicted. Label, patient_id and split are neither required nor read.

    Raises:
        LungtlError: a column or value is missing or wrong, or a point is repeated.
    """
    required = ("series_uid", *(("label",) if labelled else ()), *POSITION)
    lines = list(labelled_lines(path, required, LUNA16))
    patients = series_uids() if labelled and any("patient_id" not in line for _, line, _ in lines) else {}
    points: dict[str, list[Point]] = defaultdict(list)
    seen = set()
    for where, line, label in lines:
        uid = line["series_uid"]
        patient = (line.get("patient_id") or patients.get(uid, "")) if labelled else ""
        if labelled and not patient:
            raise LungtlError(f"{where}: no patient_id; fill it in (only series of LIDC-IDRI may omit the column)")
        x, y, z = (_number(line[name], f"{where}: {name}") for name in POSITION)
        diameter = _number(line["diameter_mm"], f"{where}: diameter_mm") if line.get("diameter_mm") else math.nan
        if diameter <= 0:
            raise LungtlError(f"{where}: diameter_mm is {diameter:g}; expected a positive number or empty (unknown)")
        earlier = points[uid]
        if (uid, x, y, z) in seen:
            raise LungtlError(f"{where}: the point ({x:g}, {y:g}, {z:g}) of {uid} is repeated; keep one row of it")
        seen.add((uid, x, y, z))
        if earlier and earlier[0].patient_id != patient:
            raise LungtlError(f"{where}: series {uid} has two patients; give all its rows the same patient_id")
        split = (line.get("split") or None) if labelled else None
        earlier.append(Point(len(earlier), patient, label, (x, y, z), diameter, split))
    return dict(points)


def _number(text: str, where: str) -> float:
    value = finite(text)
    if math.isnan(value):
        raise LungtlError(f"{where} is '{text}'; expected a number in mm")
    return value
