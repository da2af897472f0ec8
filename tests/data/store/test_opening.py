"""What is said when a dataset is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lungtl.data.store.opening import doubts
from lungtl.data.store.writer import prepare
from lungtl.sources.arrays import ArraysSource
from lungtl.sources.dicom import DicomSource
from tests.dicom_files import UID, ramp, write_series

A, B, C = f"{UID}.1", f"{UID}.2", f"{UID}.3"


def test_one_scan_under_two_uids(tmp_path: Path) -> None:
    for uid, stored in ((A, ramp(3)), (B, ramp(3) + 1), (C, ramp(3))):
        write_series(tmp_path / "scans" / uid, [0, 1, 2], stored, uid=uid)
    (tmp_path / "t.csv").write_text(f"series_uid,patient_id,label\n{A},p,0\n{B},q,0\n{C},r,1\n")
    store = prepare(DicomSource(str(tmp_path / "scans"), str(tmp_path / "t.csv")), tmp_path / "data")
    (line,) = doubts(store.bags)
    assert line.startswith(f"{A} and {C} have the same voxels (2 such cases)")


def test_values_that_are_no_hu(tmp_path: Path) -> None:
    write_series(tmp_path / "scans", [0, 1, 2], ramp(3) + 600, uid=A, slope=10)
    (tmp_path / "t.csv").write_text(f"series_uid,patient_id,label\n{A},p,0\n")
    store = prepare(DicomSource(str(tmp_path / "scans"), str(tmp_path / "t.csv")), tmp_path / "data")
    assert [line.partition(" HU")[0] for line in doubts(store.bags)] == [
        f"{A}: 5 % of a slice is above 7356",  # the second largest of (7 k + 600) * 10 - 1024, k < 36
        f"{A}: the lowest value is 4976",
    ]


def test_nothing_is_said_of_other_datasets(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.arange(-50, 50, dtype=np.int16).reshape(4, 5, 5))
    (tmp_path / "x.csv").write_text("id,patient_id,label\na,p,0\nb,q,1\nc,r,0\nd,s,1\n")
    assert doubts(prepare(ArraysSource(str(tmp_path / "x.npz"), str(tmp_path / "x.csv")), tmp_path / "data").bags) == []
