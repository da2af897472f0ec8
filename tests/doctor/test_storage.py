from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from lungtl.data.cache_folder import CacheFolder, Layout
from lungtl.data.store.files import write_checksums
from lungtl.doctor import storage
from lungtl.runs.folder import SPLIT, write_record
from lungtl.sources.base import sha256
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


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[max(content.find(torch.ones(9).numpy().tobytes()), 0)] ^= 1
    path.write_bytes(content)


def test_altered_cache_entries_and_runs_are_found(tmp_path: Path) -> None:
    assert [*storage.check_cache(tmp_path), *storage.check_runs(tmp_path)] == []
    folder, layout = CacheFolder(tmp_path), Layout(5, 4, "float32")
    with folder.locked("a"):
        folder.reserve("a", layout, 1)
        folder.publish("a", {})
    run = tmp_path / "runs" / "r"
    (run / "bundle").mkdir(parents=True)
    (run / "checkpoints").mkdir()
    (run / SPLIT).write_text("bag_id,patient_id,label,split\n")
    write_record(run, {"split_sha256": sha256(run / SPLIT)})
    (run / "bundle" / "config.json").write_text("{}")
    write_checksums(run / "bundle", ["config.json"])
    torch.save({"w": torch.ones(50)}, run / "checkpoints" / "best.ckpt")
    assert [one.status for one in (*storage.check_cache(tmp_path), *storage.check_runs(tmp_path))] == ["PASS", "PASS"]
    for file in (run / SPLIT, run / "bundle" / "config.json", folder.file("a"), run / "checkpoints" / "best.ckpt"):
        flip(file)
    found = [*storage.check_cache(tmp_path), *storage.check_runs(tmp_path)]
    assert [one.status for one in found] == ["WARN", "FAIL", "FAIL", "FAIL"]
    assert all(one.remedy for one in found)
