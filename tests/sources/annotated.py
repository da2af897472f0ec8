"""A scan with outlines drawn by hand: its DICOM series, and the annotation database that knows it.

Native slices are 2.5 mm apart, from z = 0 to 20, of 24 x 30 pixels of 0.75 mm. Tissue has -800 HU, the nodule 300.
Two readers drew a rectangle around it on the slices at 5, 7.5 and 12.5 mm, the second one with a hole at 7.5 mm,
which is tissue, and nothing at 10 mm, where it is absent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray

from lungtl.sources import lidc_outlines
from lungtl.sources.lidc_database import RATINGS
from tests.dicom_files import write_series

UID = "1.2.826.0.1.3680043.8.498.77"
Z = tuple(2.5 * k for k in range(9))
SHAPE = (24, 30)
NODULE = (slice(12, 20), slice(4, 12))
HOLE = (slice(14, 18), slice(5, 10))
DRAWN_Z = (5.0, 7.5, 12.5)
Corners = tuple[tuple[int, int], tuple[int, int]]  # first and last (row, column) of an outline
AROUND_NODULE: Corners = ((11, 3), (20, 12))  # the first pixels outside
AROUND_HOLE: Corners = ((14, 5), (17, 9))  # the outermost pixels of the hole, as pylidc has it
Drawn = tuple[float, Sequence[tuple[int, int]], bool]  # z, points (row, column), inclusion


def rectangle(corners: Corners) -> list[tuple[int, int]]:
    """All pixels of an outline, one after the other, the first one again at the end."""
    (top, left), (bottom, right) = corners
    points = [(top, column) for column in range(left, right)] + [(row, right) for row in range(top, bottom)]
    points += [(bottom, column) for column in range(right, left, -1)] + [(row, left) for row in range(bottom, top, -1)]
    return [*points, points[0]]


READERS: tuple[tuple[Drawn, ...], ...] = (
    tuple((z, rectangle(AROUND_NODULE), True) for z in DRAWN_Z),
    (*((z, rectangle(AROUND_NODULE), True) for z in DRAWN_Z), (7.5, rectangle(AROUND_HOLE), False)),
)


def hu() -> NDArray[np.int16]:
    """The native slices."""
    voxels = np.full((len(Z), *SHAPE), -800, np.int16)
    for z in DRAWN_Z:
        voxels[(Z.index(z), *NODULE)] = 300
    voxels[(Z.index(7.5), *HOLE)] = -800
    return voxels


def write_scan(folder: Path, **options: Any) -> Path:
    """Write the series; returns the folder."""
    write_series(folder, Z, hu() + 1024, uid=UID, **options)
    return folder


def annotate(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    readers: Sequence[Sequence[Drawn]] = READERS,
    z_mm: Sequence[float] = Z,
    spacing_mm: float = 0.75,
) -> None:
    """Replace the database by one with this scan alone, all ratings 4."""
    path = folder / "annotations.sqlite"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path) as db:
        columns = ", ".join(f'"{name}" INTEGER' for name in RATINGS)
        db.executescript(f"""
            CREATE TABLE scans (id INTEGER, series_instance_uid TEXT, study_instance_uid TEXT, patient_id TEXT,
                                slice_thickness REAL, pixel_spacing REAL);
            CREATE TABLE zvals (id INTEGER PRIMARY KEY, scan_id INTEGER, val REAL);
            CREATE TABLE annotations (id INTEGER, scan_id INTEGER, {columns});
            CREATE TABLE contours (id INTEGER PRIMARY KEY, annotation_id INTEGER, image_z_position REAL,
                                   inclusion INTEGER, coords TEXT);
        """)
        db.execute("INSERT INTO scans VALUES (1, ?, 'study', 'LIDC-IDRI-9999', 2.5, ?)", (UID, spacing_mm))
        db.executemany("INSERT INTO zvals (scan_id, val) VALUES (1, ?)", [(z,) for z in z_mm])
        for number, outlines in enumerate(readers, start=1):
            db.execute(f"INSERT INTO annotations VALUES (?, 1{', 4' * len(RATINGS)})", (number,))
            for z, points, inclusion in outlines:
                text = "\n".join(f"{column},{row}" for row, column in points)
                db.execute("INSERT INTO contours (annotation_id, image_z_position, inclusion, coords) "
                           "VALUES (?, ?, ?, ?)", (number, z, inclusion, text))  # fmt: skip
    monkeypatch.setattr("lungtl.sources.lidc_database.database_path", lambda: path)
    lidc_outlines._read.cache_clear()


def mask(rows: Sequence[dict[str, Any]], index: int, shape: tuple[int, ...], reader: int) -> NDArray[np.bool_]:
    """What one reader's outlines on a slice enclose, as in pylidc: without outlines and holes."""
    inside = np.zeros(shape, bool)
    for hole in (False, True):
        for row in rows:
            if row["hole"] == hole and row["reader"] == reader and row["first"] <= index <= row["last"]:
                points = np.column_stack([row["rows"], row["columns"]])
                low, high = np.maximum(points.min(axis=0).astype(int), 0), points.max(axis=0).astype(int)
                around = tuple(np.indices(np.minimum(high + 1, shape) - low).reshape(2, -1) + low[:, None])
                enclosed = Polygon(points).contains_points(np.transpose(around))
                inside[around] = inside[around] & ~enclosed if hole else inside[around] | enclosed
                on = points[((points >= 0) & (points < shape)).all(axis=1)].astype(int)
                inside[on[:, 0], on[:, 1]] = False
    return inside
