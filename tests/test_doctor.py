from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lungtl import doctor
from tests.stores import toy_store


def test_python_and_every_package_are_looked_at() -> None:
    findings = list(doctor.check_python(Path()))
    assert [f.status for f in findings] == ["PASS"] * (1 + len(doctor.PACKAGES))


def test_a_missing_package_fails_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    finding = list(doctor.check_python(Path()))[-1]
    assert (finding.status, finding.what) == ("FAIL", "no-such-package is not installed")
    assert finding.remedy


def test_an_altered_voxel_file_is_found(tmp_path: Path) -> None:
    store = toy_store(tmp_path, [3, 2])
    assert [f.status for f in doctor.check_data(tmp_path) if "store " in f.what] == ["PASS"]
    voxels = store.path / str(store.bags["voxels"][0])
    content = bytearray(voxels.read_bytes())
    content[-1] ^= 1
    voxels.write_bytes(content)
    finding = next(f for f in doctor.check_data(tmp_path) if f.status == "FAIL")
    assert voxels.name in finding.what


def test_an_unfinished_store_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "stores" / "half").mkdir(parents=True)
    assert any(f.status == "WARN" and "half is unfinished" in f.what for f in doctor.check_data(tmp_path))


def test_the_command_prints_all_and_exits_with_0(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lungtl.doctor", f"data_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert "PASS  LIDC annotations: 1018 scans" in done.stdout
