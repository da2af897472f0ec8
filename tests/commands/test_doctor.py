from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stores import toy_store

pytestmark = pytest.mark.slow


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lungtl.doctor", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def test_all_is_well(tmp_path: Path) -> None:
    done = doctor(f"data_dir={tmp_path}")
    assert done.returncode == 0, done.stdout
    assert "PASS  LIDC annotations: 1018 scans" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("0 FAIL")


def test_a_damaged_store_exits_with_1(tmp_path: Path) -> None:
    store = toy_store(tmp_path, [2])
    (store.path / str(store.bags["voxels"][0])).unlink()
    done = doctor(f"data_dir={tmp_path}")
    assert done.returncode == 1
    assert f"FAIL  store {store.name}: 1 files altered" in done.stdout


def test_a_wrong_argument_is_one_line() -> None:
    done = doctor("rot=/data")
    assert done.returncode == 2
    assert done.stderr == "error: unknown argument rot=/data; wanted data_dir=FOLDER or root=FOLDER\n"
