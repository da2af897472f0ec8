"""Bags as torch samples, and how they are put together into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from lungtl.data.augment import random_view
from lungtl.sources.base import UNKNOWN
from lungtl.store.reader import Store


class Features(Protocol):
    """What a frozen prefix of the backbone computes of each slice."""

    def rows(self, bag_id: str, view: int, kept: Tensor | None) -> Tensor:
        """Some slices of a bag, or all: float [n, K], a copy.

        Args:
            bag_id: which bag.
            view: which of its dihedral views; 0 is the bag as it is.
            kept: int64 [n], ascending indices; None is all.
        """


@dataclass
class Batch:
    """Several bags.

    Attributes:
        bag_ids: B of them.
        bag_labels: int64 [B]; -1 unknown.
        slice_labels: int64 [B, S]; -1 unknown or padding.
        mask: bool [B, S]; True where a slice is real.
        features: float [S_i, K] a bag, from the feature cache, or None.
        frames: int16 [S_i, C, H, W] a bag, not turned yet, or None when there are features.
        views: the dihedral view each bag is to be seen in; features are of that view.
        positions: int64 [S_i] a bag: which of the bag's slices these are, ascending.
    """

    bag_ids: list[str]
    bag_labels: Tensor
    slice_labels: Tensor
    mask: Tensor
    features: list[Tensor] | None
    frames: list[Tensor] | None
    views: list[int]
    positions: list[Tensor]


@dataclass(frozen=True)
class Sample:
    """One bag: see `Batch`."""

    bag_id: str
    bag_label: int
    slice_labels: Tensor
    positions: Tensor
    features: Tensor | None
    frames: Tensor | None
    view: int = 0


class BagDataset(Dataset[Sample]):
    """Bags of a store.

    Args:
        store: where they lie.
        bag_ids: which, in this order.
        labels: bag_id -> label.
        features: from the feature cache; None reads voxels.
        neighbours: frames are the slice before, the slice and the slice after.
        draw: slices drawn at random from a longer bag, afresh each time; None takes all.
        augment: draw a dihedral view of each bag, afresh each time.
    """

    def __init__(
        self,
        store: Store,
        bag_ids: Sequence[str],
        labels: Mapping[str, int],
        features: Features | None = None,
        neighbours: bool = False,
        draw: int | None = None,
        augment: bool = False,
    ) -> None:
        self.store = store
        self.bag_ids = list(bag_ids)
        self.labels = labels
        self.features = features
        self.neighbours = neighbours
        self.draw = draw
        self.augment = augment

    def __len__(self) -> int:
        return len(self.bag_ids)

    def __getitem__(self, index: int) -> Sample:
        bag_id = self.bag_ids[index]
        labels = torch.from_numpy(self.store.slice_labels(bag_id).astype(np.int64))
        kept = self._drawn(len(labels))
        positions = torch.arange(len(labels)) if kept is None else kept
        view = random_view() if self.augment else 0
        features = frames = None
        if self.features is not None:
            features = self.features.rows(bag_id, view, kept)
        else:
            frames = read_frames(self.store.voxels(bag_id), positions.numpy(), self.neighbours)
        bag_label = self.labels.get(bag_id, UNKNOWN)
        return Sample(bag_id, bag_label, labels[positions], positions, features, frames, view)

    def _drawn(self, count: int) -> Tensor | None:
        if self.draw is None or count <= self.draw:
            return None
        return torch.randperm(count)[: self.draw].sort().values  # torch's generator: seeded with the run


def read_frames(voxels: NDArray[np.int16], indices: NDArray[np.int64], neighbours: bool) -> Tensor:
    """Slices of a bag, int16 [n, C, H, W]; with neighbours C = 3, the ends repeating themselves."""
    if not neighbours:
        return torch.from_numpy(voxels[indices])[:, None]
    around = np.clip(indices[:, None] + np.array([-1, 0, 1]), 0, len(voxels) - 1)
    return torch.from_numpy(voxels[around])


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples together; only their labels are padded to the longest."""
    lengths = torch.tensor([len(sample.slice_labels) for sample in samples])
    return Batch(
        bag_ids=[sample.bag_id for sample in samples],
        bag_labels=torch.tensor([sample.bag_label for sample in samples]),
        slice_labels=pad_sequence([s.slice_labels for s in samples], batch_first=True, padding_value=UNKNOWN),
        mask=torch.arange(int(lengths.max())) < lengths[:, None],
        features=[s.features for s in samples if s.features is not None] or None,
        frames=[s.frames for s in samples if s.frames is not None] or None,
        views=[sample.view for sample in samples],
        positions=[sample.positions for sample in samples],
    )
