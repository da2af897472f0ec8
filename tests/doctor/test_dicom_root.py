from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lungtl.doctor import dicom_root
from lungtl.sources.lidc_database import read_scans, series_uids
from tests.dicom_files import write_series


def statuses(root: Path, data_dir: Path) -> dict[str, str]:
    return {finding.what: finding.status for finding in dicom_root.check_root(root, data_dir, 1)}


def test_series_are_matched_counted_and_refused(tmp_path: Path) -> None:
    uid = next(iter(series_uids()))
    (scan,) = read_scans([uid])
    write_series(tmp_path / "in" / "lidc", list(scan.z_mm[:3]), uid=uid)
    write_series(tmp_path / "in" / "own", [0, 1, 2], uid="1.2.3")
    write_series(tmp_path / "in" / "mr", [0, 1], uid="1.2.4", Modality="MR")
    seen = statuses(tmp_path / "in", tmp_path)
    assert seen[f"{tmp_path / 'in'}: 2 CT series, 1 of LIDC-IDRI's 1018"] == "PASS"
    assert seen[f"incomplete series: 1, the first is {uid}: 3 of {len(scan.z_mm)} slices"] == "WARN"
    assert seen["refused 1.2.4: Modality is MR, not CT"] == "WARN"


def test_no_folder_fails(tmp_path: Path) -> None:
    (finding,) = dicom_root.check_root(tmp_path / "nowhere", tmp_path, 1)
    assert finding.status == "FAIL"
    assert "root=" in finding.remedy


def test_the_space_that_the_store_needs_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "in", [0, 100], uid="1.2.3")  # 101 slices of 3 x 4 pixels, 2 bytes each
    usage = shutil.disk_usage(tmp_path)
    for free, status in ((2425, "PASS"), (2423, "FAIL")):
        monkeypatch.setattr("shutil.disk_usage", lambda folder, free=free: usage._replace(free=free))
        assert list(dicom_root.check_root(tmp_path / "in", tmp_path, 1))[-1].status == status
