"""Sources for the tests of stores that log their calls; quick to import in other processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lungtl.data.store.writer import prepare
from lungtl.settings.errors import Refused
from lungtl.sources.base import Bag, Inventory, Item, Refusal, Source, fingerprint
from lungtl.sources.dicom import DicomSource


@dataclass(frozen=True)
class Made(Source):
    """Synthetic bags; bag k is filled with k. Calls are logged to a file, also by workers.

    Attributes:
        diary: the log file.
        ids: one per bag.
        refused: bags that are refused when they are loaded.
        at_sight: refused by the inventory.
        interrupt_at: the bag whose loading Ctrl-C interrupts.
        kill_at: the bag whose loading kills its process.
        alive: a named pipe that every loading process keeps open until it exits.
        seconds: duration of loading a bag.
        width: of the slices; they are two rows high.
        place: changes only the listing, like another copy of the same data.
    """

    diary: str
    ids: tuple[str, ...] = tuple(f"bag-{k:02d}" for k in range(12))
    refused: tuple[str, ...] = ()
    at_sight: tuple[str, ...] = ()
    interrupt_at: str | None = None
    kill_at: str | None = None
    alive: str | None = None
    seconds: float = 0.0
    width: int = 4
    place: str = ""
    option: int = 1
    name: str = "made"
    value_range: tuple[int, int] | None = field(default=None)

    def recipe(self) -> dict[str, Any]:
        return {"kind": "made", "option": self.option}

    def listing(self) -> str:
        return fingerprint([*self.ids, *self.at_sight, self.place])

    def inventory(self, workers: int = 1) -> Inventory:
        note(self.diary, "inventory")
        return Inventory(
            tuple(Item(bag_id, fingerprint(bag_id), k) for k, bag_id in enumerate(self.ids)),
            tuple(Refusal(item, "unreadable", "look at it") for item in self.at_sight),
        )

    def load(self, item: Item) -> Bag:
        note(self.diary, f"load {item.bag_id}")
        if self.alive is not None:
            os.write(os.open(self.alive, os.O_WRONLY), b".")
        if item.bag_id == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        if item.bag_id == self.interrupt_at:
            raise KeyboardInterrupt
        if item.bag_id in self.refused:
            raise Refused(f"{item.bag_id} is bad", "fix it")
        k = int(item.content)
        return Bag(
            bag_id=item.bag_id,
            patient_id=f"p{k // 2}",
            voxels=np.full((k % 3 + 1, 2, self.width), k, np.int16),
            z_mm=np.arange(k % 3 + 1, dtype=np.float64) + 0.5,
            slice_labels=np.array([k % 3] * (k % 3 + 1), np.int8),
            bag_label=k % 2,
            nodules=({"nodule": 0, "malignancy": 2.5},) if k == 1 else (),
            details={"colour": "grey"},
        )


@dataclass(frozen=True)
class NotedDicom(DicomSource):
    """A DICOM folder that logs its loads, which take as long as for larger series."""

    diary: str = ""

    def load(self, item: Item) -> Bag:
        note(self.diary, f"load {item.bag_id}")
        time.sleep(0.01)
        return super().load(item)


def note(diary: str, line: str) -> None:
    with Path(diary).open("a") as file:
        file.write(f"{line}\n")


def noted(diary: str | Path) -> list[str]:
    path = Path(diary)
    return path.read_text().splitlines() if path.is_file() else []


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def undisturbed(tmp_path: Path, **options: Any) -> dict[str, bytes]:
    """The files of a store prepared without interruption."""
    return content(prepare(Made(str(tmp_path / "other-diary"), **options), tmp_path / "undisturbed").path)


def store_folder(data_dir: Path) -> Path:
    """The only store in a data_dir, finished or not."""
    (folder,) = (path for path in (data_dir / "stores").iterdir() if path.is_dir() and path.name != ".known")
    return folder
