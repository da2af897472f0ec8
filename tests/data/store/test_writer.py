"""Writing stores: the same bytes after any interruption."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungtl.data.store import writer
from lungtl.data.store.parts import write_part
from lungtl.data.store.reader import Store
from lungtl.data.store.writer import prepare
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import Inventory
from lungtl.sources.dicom import DicomSource
from lungtl.sources.progress import Update
from tests.data.store.made import Made, content, noted, store_folder, undisturbed
from tests.dicom_files import UID, write_series

# The same inputs, the same bytes


def test_two_preparations(tmp_path: Path) -> None:
    stores = [prepare(Made(str(tmp_path / "diary")), tmp_path / where) for where in "ab"]
    assert stores[0].name == stores[1].name
    assert stores[0].path != stores[1].path
    assert content(stores[0].path) == content(stores[1].path)
    assert {"manifest.json", "bags.parquet", "slices.parquet", "nodules.parquet", "quarantine.jsonl",
            "voxels/bag-00.npy"} <= set(content(stores[0].path))  # fmt: skip
    assert len(content(stores[0].path)) == 5 + 12


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, str]]:
    """Arguments of the updates of the progress bar."""
    updates: list[tuple[int, int, str]] = []

    @contextmanager
    def bar(title: str) -> Iterator[Update]:
        yield lambda done, total, note="": updates.append((done, total, note))

    monkeypatch.setattr(writer, "bar", bar)
    return updates


def test_workers_write_the_same(tmp_path: Path, shown: list[tuple[int, int, str]]) -> None:
    source = Made(str(tmp_path / "diary"), refused=("bag-03",))
    store = prepare(source, tmp_path, workers=2)
    assert content(store.path) == undisturbed(tmp_path, refused=("bag-03",))
    assert [(done, total) for done, total, _ in shown[:13]] == [(k, 12) for k in range(13)]
    assert (shown[0][2], shown[12][2].split(", ")[0]) == ("0 refused", "1 refused")
    assert sorted(noted(source.diary)) == sorted(["inventory", *(f"load bag-{k:02d}" for k in range(12))])


def test_layout_of_the_files_does_not_matter(tmp_path: Path) -> None:
    for layout, names in (("a", ["1", "2"]), ("b", ["deep/er/2.dcm", "x.dcm"])):
        write_series(tmp_path / layout, [0, 2], names=names)
        (tmp_path / layout / "labels.csv").write_text(f"series_uid,patient_id,label\n{UID},p,1\n")
    stores = [
        prepare(DicomSource(str(tmp_path / x), str(tmp_path / x / "labels.csv")), tmp_path / f"data-{x}") for x in "ab"
    ]
    assert stores[0].name == stores[1].name
    assert content(stores[0].path) == content(stores[1].path)


@pytest.mark.parametrize(
    "options",
    [{"option": 2}, {"ids": ("bag-00", "bag-01")}, {"value_range": (0, 255)}, {"name": "other"}, {"at_sight": ("x",)}],
)
def test_a_change_gives_another_store(tmp_path: Path, options: dict[str, Any]) -> None:
    first = prepare(Made(str(tmp_path / "diary")), tmp_path)
    before = content(first.path)
    second = prepare(Made(str(tmp_path / "diary"), **options), tmp_path)
    assert first.path != second.path
    assert content(first.path) == before


def test_a_prepared_store_is_only_opened(tmp_path: Path) -> None:
    source = Made(str(tmp_path / "diary"))
    first = prepare(source, tmp_path)
    before = noted(source.diary)
    assert len(before) == 13
    assert prepare(source, tmp_path).path == first.path
    assert noted(source.diary) == before


def test_a_deleted_store_is_made_again(tmp_path: Path) -> None:
    source = Made(str(tmp_path / "diary"))
    first = prepare(source, tmp_path)
    before = content(first.path)
    shutil.rmtree(first.path)
    assert content(prepare(source, tmp_path).path) == before


# Interrupted


def test_the_remaining_bags_are_loaded_after_an_interruption(tmp_path: Path, shown: list[tuple[int, int, str]]) -> None:
    options: dict[str, Any] = {"refused": ("bag-01",), "at_sight": ("x", "y")}
    with pytest.raises(KeyboardInterrupt):
        prepare(Made(str(tmp_path / "diary"), interrupt_at="bag-05", **options), tmp_path)
    folder = store_folder(tmp_path)
    with pytest.raises(LungtlError, match="is not a finished store"):
        Store(folder)
    again = Made(str(tmp_path / "second-diary"), **options)
    store = prepare(again, tmp_path)
    assert noted(again.diary) == ["inventory", *(f"load bag-{k:02d}" for k in range(5, 12))]
    assert shown[6] == (5, 12, "3 refused")  # after the five of the interrupted run
    assert store.path == folder
    assert content(folder) == undisturbed(tmp_path, **options)


@given(
    interruptions=st.lists(st.integers(0, 11), max_size=4),
    refused=st.sets(st.integers(0, 11), max_size=3),
)
@settings(max_examples=12, deadline=None)
def test_interruptions_leave_no_trace(
    tmp_path_factory: pytest.TempPathFactory, interruptions: list[int], refused: set[int]
) -> None:
    tmp_path = tmp_path_factory.mktemp("interrupted")
    options: dict[str, Any] = {"refused": tuple(f"bag-{k:02d}" for k in refused)}
    for k in interruptions:
        try:
            prepare(Made(str(tmp_path / "diary"), interrupt_at=f"bag-{k:02d}", **options), tmp_path)
        except KeyboardInterrupt:
            continue
        break
    assert content(prepare(Made(str(tmp_path / "diary"), **options), tmp_path).path) == undisturbed(tmp_path, **options)


@given(order=st.permutations(range(12)))
@settings(max_examples=6, deadline=None)
def test_the_order_in_which_bags_are_done_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    tmp_path = tmp_path_factory.mktemp("order")
    with pytest.raises(KeyboardInterrupt):
        prepare(Made(str(tmp_path / "diary"), interrupt_at="bag-00"), tmp_path)
    source = Made(str(tmp_path / "second-diary"))
    items = source.inventory().items
    for k in order:
        write_part(source, items[k], store_folder(tmp_path))
    assert content(prepare(source, tmp_path).path) == undisturbed(tmp_path)
    assert len(noted(source.diary)) == 1 + 12 + 1


@pytest.mark.parametrize("lost", ["parts/bag-03.json", "voxels/bag-03.npy"])
@pytest.mark.parametrize("left", [b"", b"\0\0\0\0", None])
def test_bags_lost_in_a_power_failure_are_loaded_again(tmp_path: Path, lost: str, left: bytes | None) -> None:
    with pytest.raises(KeyboardInterrupt):
        prepare(Made(str(tmp_path / "diary"), interrupt_at="bag-05"), tmp_path)
    file = store_folder(tmp_path) / lost
    file.unlink() if left is None else file.write_bytes(left)
    again = Made(str(tmp_path / "second-diary"))
    assert content(prepare(again, tmp_path).path) == undisturbed(tmp_path)
    assert noted(again.diary) == ["inventory", "load bag-03", *(f"load bag-{k:02d}" for k in range(5, 12))]


def test_unfinished_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    broken = Made(str(tmp_path / "diary"), interrupt_at="bag-05")
    with pytest.raises(KeyboardInterrupt):
        prepare(broken, tmp_path)
    left = store_folder(tmp_path) / "parts" / "bag-05.npy.123.tmp"
    left.touch()
    with pytest.raises(KeyboardInterrupt):
        prepare(broken, tmp_path)
    assert not left.exists()


def test_killed_between_the_manifest_and_the_end(tmp_path: Path) -> None:
    source = Made(str(tmp_path / "diary"))
    store = prepare(source, tmp_path)
    before = content(store.path)
    (store.path / "parts").mkdir()
    (store.path / "parts" / "bag-00.json").touch()
    assert content(prepare(source, tmp_path).path) == before
    assert len(noted(source.diary)) == 13 + 1  # the inventory, but no bag again


@pytest.mark.parametrize("kept", [0, 1, 5, 10])
def test_a_truncated_memo_is_ignored(tmp_path: Path, kept: int) -> None:
    source = Made(str(tmp_path / "diary"))
    before = content(prepare(source, tmp_path).path)
    (memo,) = (tmp_path / "stores" / ".known").glob("*.txt")
    memo.write_bytes(memo.read_bytes()[:kept] if kept < 10 else b"\xff")
    assert content(prepare(source, tmp_path).path) == before
    assert noted(source.diary).count("inventory") == 2
    assert len(noted(source.diary)) == 2 + 12


def test_a_bag_that_disappears_during_preparation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = writer._finish

    def finish(source: Made, inventory: Inventory, folder: Path) -> None:
        (folder / "voxels" / "bag-03.npy").unlink()
        original(source, inventory, folder)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_finish", finish)
        with pytest.raises(LungtlError, match=r"made-\w+ was changed during preparation \(bag-03\); rerun"):
            prepare(Made(str(tmp_path / "diary")), tmp_path)
    assert content(prepare(Made(str(tmp_path / "diary")), tmp_path).path) == undisturbed(tmp_path)


# Where nothing can be written


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    expected = rf"cannot write {tmp_path}/stores/\.known \({os.strerror(code)}\); make the folder writable or set "
    with pytest.raises(LungtlError, match=expected + "data_dir=FOLDER"):
        prepare(Made(str(tmp_path / "diary")), tmp_path)


def test_data_dir_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(
        LungtlError,
        match=r"cannot write .*data/stores/.known \(Not a directory\); a part of the path is a file; set data_dir",
    ):
        prepare(Made(str(tmp_path / "diary")), tmp_path / "data")


def test_an_existing_store_opens_from_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Made(str(tmp_path / "diary"))
    path = prepare(source, tmp_path).path
    monkeypatch.setattr(Path, "mkdir", None)
    monkeypatch.setattr(writer, "_locked", None)
    assert prepare(source, tmp_path).path == path


@pytest.mark.parametrize(
    "ids", [("../../x", "a/b", "..", "", "/etc/x", ".x", "a\0b", "ü" * 90, "y" * 5000, "a\nb", "-", "plain")]
)
def test_ids_never_leave_the_store(tmp_path: Path, ids: Iterable[str]) -> None:
    data_dir = tmp_path / "deep" / "data"
    store = prepare(Made(str(tmp_path / "diary"), ids=tuple(ids)), data_dir)
    files = set(content(tmp_path)) - {"diary"}
    inside = {f"deep/data/stores/{store.name}/{name}" for name in content(store.path)}
    others = {name for name in files - inside if not name.startswith("deep/data/stores/.known/")}
    assert others == {f"deep/data/stores/{store.name}.lock"}
    assert store.bags["bag_id"].tolist() == list(ids)
    assert [int(store.voxels(bag_id)[0, 0, 0]) for bag_id in ids] == list(range(len(store.bags)))
