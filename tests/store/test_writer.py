"""Writing stores: the same bytes whatever happened on the way."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.errors import LungtlError, Refused
from lungtl.sources.base import Bag, Inventory, Item, Refusal, Source, fingerprint
from lungtl.sources.dicom import DicomSource
from lungtl.store import writer
from lungtl.store.reader import Store
from lungtl.store.writer import prepare
from tests.dicom_files import UID, write_series

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Made(Source):
    """Bags made on the spot; bag k is full of k. Calls are counted in files, which workers can do too."""

    diary: str
    ids: tuple[str, ...] = tuple(f"bag-{k:02d}" for k in range(12))
    refused: tuple[str, ...] = ()
    at_sight: tuple[str, ...] = ()
    interrupt_at: str | None = None
    seconds: float = 0.0
    option: int = 1
    name: str = "made"
    value_range: tuple[int, int] | None = field(default=None)

    def recipe(self) -> dict[str, Any]:
        return {"kind": "made", "option": self.option}

    def listing(self) -> str:
        return fingerprint([*self.ids, *self.at_sight])

    def inventory(self, workers: int = 1) -> Inventory:
        self._note("inventory")
        return Inventory(
            tuple(Item(bag_id, fingerprint(bag_id), k) for k, bag_id in enumerate(self.ids)),
            tuple(Refusal(item, "unreadable", "look at it") for item in self.at_sight),
        )

    def load(self, item: Item) -> Bag:
        self._note(f"load {item.bag_id}")
        time.sleep(self.seconds)
        if item.bag_id == self.interrupt_at:
            raise KeyboardInterrupt
        if item.bag_id in self.refused:
            raise Refused(f"{item.bag_id} is bad", "mend it")
        k = int(item.content)
        return Bag(
            bag_id=item.bag_id,
            patient_id=f"p{k // 2}",
            voxels=np.full((k % 3 + 1, 2, 4), k, np.int16),
            z_mm=np.arange(k % 3 + 1, dtype=np.float64) + 0.5,
            slice_labels=np.array([k % 3] * (k % 3 + 1), np.int8),
            bag_label=k % 2,
            nodules=({"nodule": 0, "malignancy": 2.5},) if k == 1 else (),
            details={"colour": "grey"},
        )

    def _note(self, line: str) -> None:
        with Path(self.diary).open("a") as file:
            file.write(f"{line}\n")


def diary(source: Made) -> list[str]:
    path = Path(source.diary)
    return path.read_text().splitlines() if path.is_file() else []


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def undisturbed(tmp_path: Path, **options: Any) -> dict[str, bytes]:
    return content(prepare(Made(str(tmp_path / "other-diary"), **options), tmp_path / "undisturbed").path)


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
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """What the progress bar was told."""
    told: list[tuple[int, int]] = []

    @contextmanager
    def bar(title: str) -> Iterator[Callable[[int, int], None]]:
        yield lambda done, total: told.append((done, total))

    monkeypatch.setattr(writer, "bar", bar)
    return told


def test_workers_write_the_same(tmp_path: Path, shown: list[tuple[int, int]]) -> None:
    source = Made(str(tmp_path / "diary"), refused=("bag-03",))
    store = prepare(source, tmp_path, workers=2)
    assert content(store.path) == undisturbed(tmp_path, refused=("bag-03",))
    assert shown[:12] == [(k, 12) for k in range(1, 13)]
    assert sorted(diary(source)) == sorted(["inventory", *(f"load bag-{k:02d}" for k in range(12))])


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
    "options", [{"option": 2}, {"ids": ("bag-00", "bag-01")}, {"value_range": (0, 255)}, {"name": "other"}]
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
    noted = diary(source)
    assert len(noted) == 13
    assert prepare(source, tmp_path).path == first.path
    assert diary(source) == noted


def test_a_deleted_store_is_made_again(tmp_path: Path) -> None:
    source = Made(str(tmp_path / "diary"))
    first = prepare(source, tmp_path)
    before = content(first.path)
    shutil.rmtree(first.path)
    assert content(prepare(source, tmp_path).path) == before


# Interrupted


def test_the_rest_is_done_after_an_interruption(tmp_path: Path, shown: list[tuple[int, int]]) -> None:
    broken = Made(str(tmp_path / "diary"), interrupt_at="bag-05")
    with pytest.raises(KeyboardInterrupt):
        prepare(broken, tmp_path)
    (folder,) = (p for p in (tmp_path / "stores").iterdir() if p.is_dir() and p.name.startswith("made"))
    with pytest.raises(LungtlError, match="is not a finished store"):
        Store(folder)
    again = Made(str(tmp_path / "second-diary"))
    store = prepare(again, tmp_path)
    assert diary(again) == ["inventory", *(f"load bag-{k:02d}" for k in range(5, 12))]
    assert shown[5] == (6, 12)  # after the five of the interrupted one
    assert store.path == folder
    assert content(folder) == undisturbed(tmp_path)


def killed(tmp_path: Path, when: int, seconds: float = 0.2) -> Made:
    """Prepare in another process and kill it when some bags are begun."""
    source = Made(str(tmp_path / "diary"), seconds=seconds)
    process = started(source, tmp_path)
    while len(diary(source)) < when + 1:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return source


def started(source: Made, data_dir: Path) -> subprocess.Popen[bytes]:
    code = (
        "from pathlib import Path; from tests.store.test_writer import Made; "
        "from lungtl.store.writer import prepare; "
        f"prepare(Made({source.diary!r}, seconds={source.seconds}), Path({str(data_dir)!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY)


def test_the_rest_is_done_after_a_kill(tmp_path: Path) -> None:
    killed(tmp_path, when=4)
    again = Made(str(tmp_path / "second-diary"))
    store = prepare(again, tmp_path)
    assert 12 - 4 <= len(diary(again)) - 1 <= 12 - 3
    assert content(store.path) == undisturbed(tmp_path)


@pytest.mark.parametrize("step", ["quarantine.jsonl", "bags.parquet", "nodules.parquet", "manifest.json", "parts"])
def test_killed_while_finishing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    class Killed(BaseException):
        pass

    def killing(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            if any(isinstance(arg, Path) and arg.name == step for arg in args):
                raise Killed
            return function(*args, **options)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_write", killing(writer._write))
        patch.setattr(writer, "_write_table", killing(writer._write_table))
        patch.setattr(shutil, "rmtree", killing(shutil.rmtree))
        with pytest.raises(Killed):
            prepare(Made(str(tmp_path / "diary")), tmp_path)
    again = Made(str(tmp_path / "second-diary"))
    assert content(prepare(again, tmp_path).path) == undisturbed(tmp_path)
    assert diary(again) == ["inventory"]


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Made(str(tmp_path / "diary"))
    with monkeypatch.context() as patch:
        save, count = np.save, iter(range(100))

        def full(file: Any, *args: Any, **options: Any) -> None:
            if next(count) == 4:
                file.write(b"half a")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            save(file, *args, **options)

        patch.setattr(np, "save", full)
        with pytest.raises(LungtlError, match=r"no space left for .*made-.*; free some and run the same command"):
            prepare(source, tmp_path)
    assert content(prepare(source, tmp_path).path) == undisturbed(tmp_path)


def test_other_failures_of_the_system_are_not_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(np, "save", broken)
    with pytest.raises(OSError, match="Input/output error"):
        prepare(Made(str(tmp_path / "diary")), tmp_path)


def test_a_second_process_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = Made(str(tmp_path / "diary"), seconds=0.1)
    process = started(first, tmp_path)
    while len(diary(first)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    second = Made(str(tmp_path / "second-diary"))
    with caplog.at_level(logging.WARNING):
        store = prepare(second, tmp_path)
    assert process.wait(10) == 0
    assert "is being prepared by another process; waiting for it" in caplog.text
    assert diary(second) == ["inventory"]
    assert content(store.path) == undisturbed(tmp_path)


# Refused


def lines(store: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (store / "quarantine.jsonl").read_text().splitlines()]


def test_quarantine(tmp_path: Path) -> None:
    source = Made(str(tmp_path / "diary"), refused=("bag-04", "bag-02"), at_sight=("x.dcm",))
    store = prepare(source, tmp_path)
    assert lines(store.path) == [
        {"item": "x.dcm", "reason": "unreadable", "remedy": "look at it"},
        {"item": "bag-02", "reason": "bag-02 is bad", "remedy": "mend it"},
        {"item": "bag-04", "reason": "bag-04 is bad", "remedy": "mend it"},
    ]
    assert (store.manifest["n_refused"], store.manifest["n_bags"]) == (3, 10)
    assert not {"bag-02", "bag-04"} & set(store.bags["bag_id"])


def test_nothing_refused(tmp_path: Path) -> None:
    assert lines(prepare(Made(str(tmp_path / "diary")), tmp_path).path) == []


def test_everything_refused_and_then_mended(tmp_path: Path) -> None:
    ids = ("bag-00", "bag-01")
    with pytest.raises(LungtlError, match=r"all 2 items of dataset made were refused \(bag-00: bag-00 is bad\)") as e:
        prepare(Made(str(tmp_path / "diary"), ids=ids, refused=ids), tmp_path)
    quarantine = Path(str(e.value).rpartition(" in ")[2])
    assert [line["item"] for line in lines(quarantine.parent)] == list(ids)
    assert prepare(Made(str(tmp_path / "diary"), ids=ids), tmp_path).manifest["n_bags"] == 2


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(LungtlError, match=r"nothing in dataset made can be used \(0 refused; made: it is empty\)"):
        prepare(Made(str(tmp_path / "diary"), ids=()), tmp_path)


def test_everything_refused_at_sight(tmp_path: Path) -> None:
    source = Made(str(tmp_path / "diary"), ids=(), at_sight=("x", "y"))
    with pytest.raises(LungtlError, match=r"can be used \(2 refused; x: unreadable\); look at it"):
        prepare(source, tmp_path)
    assert not list((tmp_path / "stores").glob("made*"))


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
