"""Tiny stores of synthetic bags, prepared by the real writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lungtl.data.store.reader import Store
from lungtl.data.store.writer import prepare
from lungtl.sources.base import MALIGNANT, NON_NODULE, Bag, Inventory, Item, Source

SIZE = 32


@dataclass(frozen=True)
class ToySource(Source):
    """Noise around -600 HU; in every other bag, the middle slice has a bright square, which makes the bag positive.

    Attributes:
        lengths: slices of each bag; bag i belongs to patient i.
        seed: of the noise.
        spacings: (row, column) of each bag's pixels in mm; empty if unknown.
    """

    lengths: tuple[int, ...]
    seed: int = 0
    spacings: tuple[tuple[float, float], ...] = ()
    name = "toy"

    def recipe(self) -> dict[str, Any]:
        return {"lengths": list(self.lengths), "seed": self.seed, "spacings": list(map(list, self.spacings))}

    def listing(self) -> str:
        return ""

    def inventory(self, workers: int = 1) -> Inventory:
        return Inventory(tuple(Item(f"b{i:02d}", "", i) for i in range(len(self.lengths))))

    def load(self, item: Item) -> Bag:
        n, positive = self.lengths[item.content], item.content % 2
        random = np.random.default_rng([self.seed, item.content])
        voxels = random.normal(-600, 150, (n, SIZE, SIZE)).astype(np.int16)
        labels = np.full(n, NON_NODULE, dtype=np.int8)
        if positive:
            voxels[n // 2, 8:24, 8:24] += 600
            labels[n // 2] = MALIGNANT
        spacing = self.spacings[item.content] if self.spacings else (float("nan"), float("nan"))
        return Bag(item.bag_id, f"p{item.content:02d}", voxels, np.arange(n) * 1.5, labels, positive, spacing)


def toy_store(
    folder: Path, lengths: Sequence[int], seed: int = 0, spacings: Sequence[tuple[float, float]] = ()
) -> Store:
    return prepare(ToySource(tuple(lengths), seed, tuple(spacings)), folder)
