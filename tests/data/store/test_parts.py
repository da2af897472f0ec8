"""Parts of an unfinished store."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from lungtl.data.store.parts import read_part, remove_temporary_files, write_part
from lungtl.sources.base import Bag
from tests.data.store.made import Made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    (tmp_path / "voxels").mkdir()
    return tmp_path


def test_written_and_read(folder: Path) -> None:
    source = Made(str(folder / "diary"))
    item = source.inventory().items[2]
    voxels = folder / "voxels" / "bag-02.npy"
    assert read_part(folder, "bag-02") is None
    assert write_part(source, item, folder) == voxels.stat().st_size == 128 + 3 * 2 * 4 * 2
    part = read_part(folder, "bag-02")
    assert part is not None
    assert part["bag"]["voxels_sha256"] == hashlib.sha256(voxels.read_bytes()).hexdigest()
    assert (part["z_mm"], part["slice_labels"], part["nodules"]) == ([0.5, 1.5, 2.5], [2, 2, 2], [])


def test_ids_that_differ_only_in_case_have_files_that_differ_without_it(folder: Path) -> None:
    ids = ("a1", "A1", "a1.", "ä", "Ä")
    source = Made(str(folder / "diary"), ids=ids)
    for item in source.inventory().items:
        write_part(source, item, folder)
    for kind in ("parts", "voxels"):
        assert len({path.name.lower() for path in (folder / kind).iterdir()}) == len(ids)
    assert [(read_part(folder, one) or {})["bag"]["bag_id"] for one in ids] == list(ids)


def test_refused(folder: Path) -> None:
    source = Made(str(folder / "diary"), refused=("bag-02",))
    assert write_part(source, source.inventory().items[2], folder) is None
    assert read_part(folder, "bag-02") == {"refused": {"item": "bag-02", "reason": "bag-02 is bad", "remedy": "fix it"}}
    assert not list((folder / "voxels").iterdir())


def test_voxels_are_a_plain_npy_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    voxels = np.arange(-60, 60, dtype=np.int16).reshape(4, 6, 5).transpose(2, 0, 1)  # not in C order
    source = Made(str(folder / "diary"))
    bag = Bag("b", "p", voxels, np.arange(5.0), np.zeros(5, np.int8), 0)
    monkeypatch.setattr(Made, "load", lambda *_: bag)
    write_part(source, source.inventory().items[0], folder)
    np.save(folder / "expected.npy", np.ascontiguousarray(voxels))
    assert (folder / "voxels" / "b.npy").read_bytes() == (folder / "expected.npy").read_bytes()


def test_only_temporary_files_are_removed(folder: Path) -> None:
    for name in ("a.json", "a.json.12.tmp", "b.npy.7.tmp"):
        (folder / "parts" / name).touch()
    remove_temporary_files(folder)
    assert [path.name for path in (folder / "parts").iterdir()] == ["a.json"]
