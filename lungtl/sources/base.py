"""The interface between a dataset and the rest of lungtl: a `Source` yields `Bag`s.

A source is read in three steps, so that preparation can be skipped, resumed and parallelised: `listing` (has the input
changed?), `inventory` (which bags can be made, which inputs are refused?) and `load` (read one bag).
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError

UNKNOWN, NON_NODULE, BENIGN, MALIGNANT = -1, 0, 1, 2
"""Slice labels. A bag label is UNKNOWN (-1), 0 or 1."""


@dataclass(frozen=True)
class Bag:
    """One unit of classification: a scan, a nodule or a patient."""

    bag_id: str  # unique in its dataset
    patient_id: str  # all bags of a patient are always in the same split
    voxels: NDArray[np.int16]  # int16 [S, H, W], ordered slices; HU unless the source has a `value_range`
    z_mm: NDArray[np.float64]  # float64 [S], positions of the slices along z; NaN if unknown
    slice_labels: NDArray[np.int8]  # int8 [S], -1 unknown, 0 non-nodule, 1 benign, 2 malignant
    bag_label: int  # -1 unknown, 0 or 1
    pixel_spacing_mm: tuple[float, float] = (float("nan"), float("nan"))  # (row, column) spacing; NaN if unknown
    split: str | None = None  # the split that the source itself assigns, if any
    votes: float = float(
        "nan"
    )  # share of the readers who call it malignant, see `lidc_labels.reader_votes`; NaN if unknown
    diameter_mm: float = float("nan")  # of the largest annotated nodule that counts; 0 if there is none, NaN if unknown
    nodules: tuple[Mapping[str, Any], ...] = ()  # one row per nodule, the columns of `nodules.parquet` after bag_id
    outlines: tuple[Mapping[str, Any], ...] = ()  # likewise of `outlines.parquet`, see `lidc_outlines.Row`
    details: Mapping[str, Any] = field(default_factory=dict)  # more columns of `bags.parquet`; never personal data

    def __post_init__(self) -> None:
        n = len(self.voxels)
        if self.voxels.ndim != 3 or self.voxels.dtype != np.int16 or n == 0:
            seen = f"{self.voxels.dtype} {self.voxels.shape}"
            raise LungtlError(f"{self.bag_id}: voxels are {seen}, expected int16 [S>0, H, W]")
        if self.z_mm.shape != (n,) or self.slice_labels.shape != (n,):
            seen = f"{self.z_mm.shape} positions and {self.slice_labels.shape} labels"
            raise LungtlError(f"{self.bag_id}: {n} slices but {seen}")


@dataclass(frozen=True)
class Item:
    """A bag that has not been loaded yet."""

    bag_id: str  # the id that the loaded bag will have
    fingerprint: str  # hash of the input
    content: Any  # what `Source.load` requires (paths, rows); picklable, for worker processes


@dataclass(frozen=True)
class Refusal:
    """An input that cannot be used: one line of the store's `quarantine.jsonl`."""

    item: str  # the input (a series UID, a file relative to the root, a row's id)
    reason: str  # what is wrong, with the value seen
    remedy: str  # what the user can do about it


@dataclass(frozen=True)
class Inventory:
    """What a source contains: items in a stable order, and the inputs refused so far."""

    items: tuple[Item, ...]
    refusals: tuple[Refusal, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Hash of all items and refusals; both are part of the store."""
        return fingerprint(
            [[[item.bag_id, item.fingerprint] for item in self.items], [vars(refusal) for refusal in self.refusals]]
        )


class Source(ABC):
    """A dataset before preparation. Implementations are picklable dataclasses whose fields are the options."""

    name: str
    """Short name, the first part of the store's folder name."""

    value_range: tuple[int, int] | None = None
    """None: voxels are HU and windows apply. (low, high): the grey-value range of a source without HU."""

    slice_step_mm: float | None = None
    """Distance between slices if the source resamples them to a regular grid."""

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """The options that change the prepared bytes (JSON values; no folders)."""

    @abstractmethod
    def listing(self) -> str:
        """Cheap hash of the input, so that an unchanged input is not read again."""

    @abstractmethod
    def inventory(self, workers: int = 1) -> Inventory:
        """Find the items, with up to `workers` processes; raises LungtlError if nothing can be used."""

    @abstractmethod
    def load(self, item: Item) -> Bag:
        """Read one item; raises `Refused` if it cannot be used."""


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
