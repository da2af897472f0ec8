"""The contract between a dataset and everything after it: a `Source` yields `Bag`s.

A source is read in three steps, so that preparation can skip, resume and parallelise:
`listing` (cheap: what lies there?), `inventory` (what can be made of it, what is refused?) and `load` (one bag).
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError

UNKNOWN, NON_NODULE, BENIGN, MALIGNANT = -1, 0, 1, 2
"""Slice labels. A bag label is UNKNOWN (-1), 0 or 1."""

HU_RANGE: tuple[int, int] | None = None
"""`Source.value_range` of volumes in Hounsfield units."""


@dataclass(frozen=True)
class Bag:
    """What gets ONE probability: a scan, a nodule or a patient.

    Attributes:
        bag_id: unique in its dataset.
        patient_id: splits never separate the bags of one patient.
        voxels: int16 [S, H, W], ordered slices; HU unless the source's `value_range` says otherwise.
        z_mm: float64 [S], the slices' positions along z in mm; NaN where unknown.
        slice_labels: int8 [S], -1 unknown, 0 non-nodule, 1 benign, 2 malignant.
        bag_label: -1 unknown, 0 or 1.
        pixel_spacing_mm: (row, column) spacing; NaN where unknown.
        split: the split the source itself assigns, if any.
        diameter_mm: of the bag's largest annotated nodule that counts; 0 when it has none, NaN when unknown.
        nodules: one row a nodule, the columns of `nodules.parquet` beside bag_id.
        details: further columns of `bags.parquet`, scalars; never anything that identifies a person.
    """

    bag_id: str
    patient_id: str
    voxels: NDArray[np.int16]
    z_mm: NDArray[np.float64]
    slice_labels: NDArray[np.int8]
    bag_label: int
    pixel_spacing_mm: tuple[float, float] = (float("nan"), float("nan"))
    split: str | None = None
    diameter_mm: float = float("nan")
    nodules: tuple[Mapping[str, Any], ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.voxels)
        if self.voxels.ndim != 3 or self.voxels.dtype != np.int16 or n == 0:
            raise LungtlError(
                f"bag {self.bag_id}: voxels are {self.voxels.dtype} {self.voxels.shape}, wanted int16 [S>0, H, W]"
            )
        if self.z_mm.shape != (n,) or self.slice_labels.shape != (n,):
            raise LungtlError(
                f"bag {self.bag_id}: {n} slices but {self.z_mm.shape} positions and {self.slice_labels.shape} labels"
            )


@dataclass(frozen=True)
class Item:
    """One bag-to-be: enough to load it in another process.

    Attributes:
        bag_id: the id of the bag that `Source.load` makes of it.
        fingerprint: hash of the input it is made from.
        content: what `Source.load` needs (paths, rows); picklable.
    """

    bag_id: str
    fingerprint: str
    content: Any


@dataclass(frozen=True)
class Refusal:
    """An input that makes no bag, and why: a line of the store's `quarantine.jsonl`.

    Attributes:
        item: what is refused (a series UID, a file relative to the root, a row's id).
        reason: what is wrong, with the value seen.
        remedy: what the user can do about it.
    """

    item: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class Inventory:
    """What a source offers: items in a stable order, and what it refused on sight."""

    items: tuple[Item, ...]
    refusals: tuple[Refusal, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of everything the bags are made from, and of what is refused: that is in the store too."""
        return fingerprint(
            [[[item.bag_id, item.fingerprint] for item in self.items], [vars(refusal) for refusal in self.refusals]]
        )


class Source(ABC):
    """A dataset before preparation. Implementations are picklable dataclasses whose fields are the options."""

    name: str
    """Short name, the first part of the store's folder name."""

    value_range: tuple[int, int] | None = HU_RANGE
    """None: voxels are HU and windows apply. (low, high): the grey-value range of a source without HU."""

    slice_step_mm: float | None = None
    """Distance between slices where the source resamples them to a regular grid."""

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """The options that change the prepared bytes (JSON values; no folders)."""

    @abstractmethod
    def listing(self) -> str:
        """Cheap hash of what lies there, so that an unchanged input is not read again."""

    @abstractmethod
    def inventory(self, workers: int = 1) -> Inventory:
        """Find the items.

        Args:
            workers: processes that may work at it.

        Raises:
            LungtlError: nothing at all can be used.
        """

    @abstractmethod
    def load(self, item: Item) -> Bag:
        """Read one item; raises `Refused` when it cannot be used."""


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(paths: Iterable[Path]) -> str:
    """Hash of the files below the given files and folders: relative path, size, modification time, permissions."""
    from lungtl.sources.ct.files import walk  # follows links, as the reader does; it imports this module

    rows = []
    for path in paths:
        files = [path] if path.is_file() else [p for p in walk(path)[0] if p.is_file()]
        for file in files:
            stat = file.stat()
            rows.append([str(file.relative_to(path.parent)), stat.st_size, stat.st_mtime_ns, stat.st_mode])
    return fingerprint(rows)
