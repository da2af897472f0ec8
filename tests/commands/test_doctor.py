from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.commands.conftest import Lab
from tests.stores import toy_store

pytestmark = pytest.mark.slow


def doctor(lab: Lab, *arguments: str) -> subprocess.CompletedProcess[str]:
    return lab.forks.command("lungtl.doctor", *arguments, folder=lab.root)


def test_all_is_well(lab: Lab, tmp_path: Path) -> None:
    done = doctor(lab, f"data_dir={tmp_path}")
    assert done.returncode == 0, done.stdout
    assert "PASS  LIDC annotations: 1018 scans" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("0 FAIL")


def test_a_damaged_store_exits_with_1(lab: Lab, tmp_path: Path) -> None:
    store = toy_store(tmp_path, [2])
    (store.path / str(store.bags["voxels"][0])).unlink()
    done = doctor(lab, f"data_dir={tmp_path}")
    assert done.returncode == 1
    assert f"FAIL  store {store.name}: 1 file changed" in done.stdout


def test_a_wrong_argument_is_one_line(lab: Lab) -> None:
    done = doctor(lab, "rot=/data")
    assert done.returncode == 2
    assert done.stderr == "error: unknown argument rot=/data; expected data_dir=FOLDER or root=FOLDER\n"
