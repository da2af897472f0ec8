from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.data.cache_folder import GB, CacheFolder, Layout, map_array

LAYOUT = Layout(rows=50, width=20, dtype="float32")  # 4128 bytes: numpy's header has 128
BOUND = 10 * LAYOUT.size / GB


def store(folder: CacheFolder, name: str, age: float = 0, layout: Layout = LAYOUT, max_gb: float = BOUND) -> Path:
    """An entry of ones, last used `age` seconds ago."""
    with folder.locked(name):
        file = folder.reserve(name, layout, max_gb)
        assert file is not None
        with file.open("r+b") as opened:
            opened.seek(len(layout.header))
            opened.write(np.ones((layout.rows, layout.width), layout.dtype).data)
        folder.publish(name, {"name": name})
    address = folder.path / name / "address.json"
    os.utime(address, (address.stat().st_mtime - age,) * 2)
    return folder.file(name)


def names(folder: CacheFolder) -> list[str]:
    return [entry.folder.name for entry in folder.entries()]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rows", [1, 99, 123456])
def test_an_entry_is_a_file_that_numpy_reads(tmp_path: Path, rows: int, dtype: str) -> None:
    layout = Layout(rows, 3, dtype)
    file = store(CacheFolder(tmp_path), "a", layout=layout, max_gb=1)
    read = np.load(file)
    assert (read.shape, read.dtype) == ((rows, 3), np.dtype(dtype))
    assert (read == 1).all()
    assert file.stat().st_size == layout.size
    assert np.array_equal(map_array(file, layout), read)


def test_an_entry_appears_when_complete_and_its_space_is_reserved(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    with folder.locked("a"):
        file = folder.reserve("a", LAYOUT, BOUND)
        assert file is not None
        if hasattr(os, "posix_fallocate"):
            assert file.stat().st_size == LAYOUT.size
            assert file.stat().st_blocks * 512 >= LAYOUT.size
        assert names(folder) == []
        assert not folder.is_complete("a")
        folder.publish("a", {"name": "a"})
        assert not file.exists()
    assert names(folder) == ["a"]


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    for name, age in (("a", 30), ("b", 40), ("c", 10)):
        store(folder, name, age)
    assert names(folder) == ["b", "a", "c"]
    with folder.locked("b"):
        assert folder.is_complete("b")  # used now
    assert folder.shrink(2 * LAYOUT.size) == 2 * LAYOUT.size
    assert names(folder) == ["c", "b"]
    assert folder.shrink(2 * LAYOUT.size) == 2 * LAYOUT.size  # there is room enough
    assert names(folder) == ["c", "b"]
    assert folder.shrink(0) == 0
    assert names(folder) == []


def test_mapped_entries_are_kept_until_released(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    mapped = map_array(store(folder, "a", age=9), LAYOUT)
    store(folder, "b")
    assert folder.shrink(0) == LAYOUT.size
    assert names(folder) == ["a"]
    assert (mapped == 1).all()
    del mapped
    assert folder.shrink(0) == 0


def test_space_in_use_cannot_be_reserved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = CacheFolder(tmp_path)
    mapped = map_array(store(folder, "a"), LAYOUT)
    with folder.locked("b"):
        assert folder.reserve("b", LAYOUT, 1.5 * LAYOUT.size / GB) is None
    assert "do not fit into the cache" in caplog.text
    assert (mapped == 1).all()
    assert not list(folder.path.glob("*.partial"))


class Computing(threading.Thread):
    """Another run: locks an entry and reserves its space until `go` is set."""

    def __init__(self, folder: CacheFolder, name: str) -> None:
        super().__init__(daemon=True)
        self.folder, self.entry, self.started, self.go = folder, name, threading.Event(), threading.Event()

    def run(self) -> None:
        with self.folder.locked(self.entry):
            self.folder.reserve(self.entry, LAYOUT, BOUND)
            self.started.set()
            self.go.wait(20)
            self.folder.publish(self.entry, {"name": self.entry})

    def __enter__(self) -> Computing:
        self.start()
        assert self.started.wait(20)
        return self

    def __exit__(self, *_: Any) -> None:
        self.go.set()
        self.join(20)


def test_entries_computed_by_another_run_are_counted_and_kept(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    store(folder, "a", age=5)
    with Computing(folder, "b"):
        assert folder.shrink(1.5 * LAYOUT.size) == LAYOUT.size
        assert names(folder) == []
        assert folder.shrink(0) == LAYOUT.size
    assert names(folder) == ["b"]


def test_a_second_run_waits_for_an_entry_being_computed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = CacheFolder(tmp_path)
    with caplog.at_level("INFO"), Computing(folder, "a") as other:
        threading.Timer(0.3, other.go.set).start()
        with folder.locked("a"):
            assert folder.is_complete("a")
    assert "waiting for another run that is computing them (a)" in caplog.text


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    store(folder, "a")
    for left in ("k.partial", "half-removed"):
        (folder.path / left).mkdir()
        (folder.path / left / "features.npy").write_bytes(b"x" * 100)
    assert folder.shrink(GB) == LAYOUT.size
    assert sorted(path.name for path in folder.path.glob("*/")) == ["a"]


def test_unreadable_entries_are_ignored(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path)
    assert folder.entries() == []
    store(folder, "a")
    (folder.path / "a" / "address.json").write_text("[1]")
    assert folder.entries() == []


@pytest.mark.parametrize("name", ["features.npy", "checksum.txt"])
def test_one_flipped_bit_makes_an_entry_incomplete(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lungtl.data.cache_folder.BLOCK", 1000)
    folder = CacheFolder(tmp_path)
    store(folder, "a")
    file = folder.path / "a" / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with folder.locked("a"):
        assert not folder.is_complete("a")
    assert "cache entry a is damaged and is computed again" in caplog.text
