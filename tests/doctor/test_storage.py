from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lungtl.doctor import storage
from lungtl.tracking.backend import DATABASE
from tests.stores import toy_store


def test_an_altered_voxel_file_is_found(tmp_path: Path) -> None:
    store = toy_store(tmp_path, [3, 2])
    (before,) = storage.check_stores(tmp_path)
    assert (before.status, before.what) == ("PASS", f"store {store.name}: 2 cases, unchanged")
    voxels = store.path / str(store.bags["voxels"][0])
    content = bytearray(voxels.read_bytes())
    content[-1] ^= 1
    voxels.write_bytes(content)
    (after,) = storage.check_stores(tmp_path)
    assert after.status == "FAIL"
    assert voxels.name in after.what
    assert str(store.path) in after.remedy


def test_an_unfinished_store_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "stores" / "half").mkdir(parents=True)
    (finding,) = storage.check_stores(tmp_path)
    assert (finding.status, finding.what) == ("WARN", "store half is unfinished")


def test_little_space_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage._replace(free=1_000_000_000))
    (finding,) = storage.check_space(tmp_path / "not" / "yet")
    assert finding.status == "WARN"
    assert finding.what.startswith("1 GB free")


def test_a_damaged_tracking_store_fails(tmp_path: Path) -> None:
    (finding,) = storage.check_tracking(tmp_path)
    assert finding.status == "PASS"
    (tmp_path / DATABASE).write_bytes(b"not a database" * 100)
    (finding,) = storage.check_tracking(tmp_path)
    assert finding.status == "FAIL"
    assert DATABASE in finding.remedy
