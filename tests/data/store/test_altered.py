"""Stores whose files were altered, lost or damaged."""

from __future__ import annotations

import copy
import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lungtl.data.store import reader
from lungtl.data.store.reader import Store
from lungtl.data.store.writer import prepare
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import sha256
from tests.data.store.made import Made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return prepare(Made(str(tmp_path / "diary"), refused=("bag-02",), at_sight=("x", "y")), tmp_path)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store for tests that damage it for a moment, and do so many times."""
    tmp_path = tmp_path_factory.mktemp("damaged")
    return prepare(Made(str(tmp_path / "diary")), tmp_path)


def flip(path: Path, place: int, bit: int = 0) -> None:
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.write_bytes(content)


@contextmanager
def altered(path: Path, place: int, bit: int) -> Iterator[None]:
    """Change one bit of a file temporarily."""
    flip(path, place, bit)
    try:
        yield
    finally:
        flip(path, place, bit)


# Changed files


def test_nothing_altered(store: Store) -> None:
    assert store.altered_files() == []


@pytest.mark.parametrize(
    "name", ["voxels/bag-05.npy", "bags.parquet", "slices.parquet", "nodules.parquet", "quarantine.jsonl"]
)
def test_altered_file(store: Store, name: str) -> None:
    flip(store.path / name, -5)
    assert Store(store.path).altered_files() == [name]


def test_altered_manifest(store: Store) -> None:
    flip(store.path / "manifest.json", 300)
    assert store.altered_files() == ["manifest.json"]
    (store.path / "manifest.json").unlink()
    assert store.altered_files() == ["manifest.json"]


def test_another_stores_manifest(store: Store, tmp_path: Path) -> None:
    other = prepare(Made(str(tmp_path / "diary")), tmp_path / "other")
    (store.path / "manifest.json").write_bytes((other.path / "manifest.json").read_bytes())
    assert store.altered_files() == ["manifest.json"]


@pytest.mark.parametrize("name", ["voxels/bag-00.npy", "bags.parquet", "nodules.parquet", "quarantine.jsonl"])
def test_lost_file(store: Store, name: str) -> None:
    (store.path / name).unlink()
    assert Store(store.path).altered_files() == [name]


def test_every_altered_file_is_found(store: Store) -> None:
    names = ["nodules.parquet", "voxels/bag-01.npy", "voxels/bag-10.npy", "manifest.json"]
    for name in names:
        flip(store.path / name, 140)
    assert store.altered_files() == names


def test_checking_a_large_store_shows_progress(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert store.altered_files() == []
    assert caplog.messages == []
    monkeypatch.setattr(reader, "LARGE_BYTES", 1000)
    store.altered_files()
    assert any(line.startswith(f"checking {store.name}: ") and line.endswith("0 altered") for line in caplog.messages)


def test_fingerprint_is_of_the_content(tmp_path: Path, store: Store) -> None:
    same = prepare(Made(str(tmp_path / "d"), refused=("bag-02",), at_sight=("x", "y")), tmp_path / "elsewhere")
    other = prepare(Made(str(tmp_path / "d"), refused=("bag-03",)), tmp_path / "third")
    assert same.fingerprint == store.fingerprint != other.fingerprint


# Damage


def remedy(store: Store) -> str:
    return rf"; remove {store.path} and prepare it again$"


@pytest.mark.parametrize("name", ["bags", "slices", "nodules"])
def test_lost_table(store: Store, name: str) -> None:
    (store.path / f"{name}.parquet").unlink()
    with pytest.raises(
        LungtlError, match=rf"{name}.parquet cannot be read \(No such file or directory\)" + remedy(store)
    ):
        getattr(Store(store.path), name)


@given(place=st.integers(0), bit=st.integers(0, 7))
def test_no_bit_of_a_table_changes_unnoticed(damaged: Store, place: int, bit: int) -> None:
    said = pytest.raises(LungtlError, match="bags.parquet was changed" + remedy(damaged))
    with altered(damaged.path / "bags.parquet", place, bit), said:
        _ = Store(damaged.path).bags


@given(place=st.integers(0), bit=st.integers(0, 7))
@example(place=0, bit=0)  # no JSON
def test_no_bit_of_the_manifest_changes_unnoticed(damaged: Store, place: int, bit: int) -> None:
    with altered(damaged.path / "manifest.json", place, bit):
        said = error_of(lambda: Store(damaged.path))
        if said is None:
            assert Store(damaged.path).manifest == damaged.manifest  # white space
        else:
            assert said.endswith("prepare it again")
            assert "\n" not in said


def error_of(work: Callable[[], object]) -> str | None:
    """The LungtlError's message, if there is one."""
    try:
        work()
    except LungtlError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"3", b"{}", b"\xff", b'{"format": "2"}', b'{"format": 2}']
)
def test_invalid_manifests(store: Store, content: bytes) -> None:
    (store.path / "manifest.json").write_bytes(content)
    with pytest.raises(LungtlError, match=r"prepare it again$"):
        Store(store.path)


@pytest.mark.parametrize("key", ["n_bags", "tables", "fingerprint", "value_range", "checksum", "quarantine"])
@pytest.mark.parametrize("value", [None, 7, "x", [1, 2, 3], {}])
def test_manifest_with_another_value(store: Store, key: str, value: Any) -> None:
    manifest = {**store.manifest, key: value}
    if manifest == store.manifest:
        return
    (store.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(LungtlError, match="manifest.json was changed" + remedy(store)):
        Store(store.path)


@given(place=st.integers(0, 127), bit=st.integers(0, 7))
@example(place=9, bit=7)  # the header's length
@example(place=30, bit=1)
def test_a_damaged_header_gives_no_wrong_voxels(damaged: Store, place: int, bit: int) -> None:
    with altered(damaged.path / "voxels" / "bag-05.npy", place, bit):
        said = error_of(lambda: damaged.voxels("bag-05"))
        if said is None:
            assert np.array_equal(damaged.voxels("bag-05"), np.full((3, 2, 4), 5))
        else:
            assert said.startswith(f"{damaged.path}/voxels/bag-05.npy ")
            assert said.endswith(f"; remove {damaged.path} and prepare it again")


@pytest.mark.parametrize(
    ("array", "seen"),
    [
        (np.zeros((3, 2, 3), np.int16), r"contains int16 \(3, 2, 3\), expected int16 \(3, 2, 4\)"),
        (np.zeros((2, 4), np.int16), r"contains int16 \(2, 4\), expected"),
        (np.zeros((3, 2, 4), np.uint16), r"contains uint16 \(3, 2, 4\), expected"),
    ],
)
def test_voxels_of_another_kind(store: Store, array: NDArray[Any], seen: str) -> None:
    np.save(store.path / "voxels" / "bag-05.npy", array)
    with pytest.raises(LungtlError, match=seen + ".*" + remedy(store)):
        store.voxels("bag-05")


@pytest.mark.parametrize("kept", [0, 5, 100, 128, 130])
def test_voxel_file_that_was_cut(store: Store, kept: int) -> None:
    path = store.path / "voxels" / "bag-05.npy"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(LungtlError, match="bag-05.npy is not an .npy file, or is truncated" + remedy(store)):
        store.voxels("bag-05")


def test_lost_voxel_file(store: Store) -> None:
    (store.path / "voxels" / "bag-05.npy").unlink()
    with pytest.raises(LungtlError, match=r"bag-05.npy cannot be read \(No such file or directory\)" + remedy(store)):
        store.voxels("bag-05")


def test_a_damaged_store_is_not_prepared_over(store: Store, tmp_path: Path) -> None:
    flip(store.path / "manifest.json", -10)
    source = Made(str(tmp_path / "diary"), refused=("bag-02",), at_sight=("x", "y"))
    with pytest.raises(LungtlError, match="manifest.json .*" + remedy(store)):
        prepare(source, tmp_path)


def test_altered_voxels_are_noticed_where_they_are_read(store: Store) -> None:
    bag_id, file = store.bags[["bag_id", "voxels"]].iloc[0]
    with altered(store.path / file, -1, 3), pytest.raises(LungtlError, match=f"{file} was altered; remove"):
        Store(store.path).voxels(bag_id)


def test_a_file_is_hashed_once_and_not_in_every_loader_process(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return sha256(path)

    monkeypatch.setattr(reader, "sha256", counted)
    fresh, bag_id = Store(store.path), str(store.bags["bag_id"].iloc[0])
    process = multiprocessing.get_context("fork").Process(target=fresh.voxels, args=(bag_id,))
    _ = fresh._intact  # a loader's process is forked by one that has the store open
    process.start()
    process.join()
    fresh.voxels(bag_id)
    assert (process.exitcode, hashed) == (0, [])
    copy.copy(fresh).voxels(bag_id)  # likewise in a spawned process, which checks for itself
    assert len(hashed) == 1
