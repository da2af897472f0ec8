"""Bags as torch samples, and how they are put together into batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from lungtl.data.augment import random_view
from lungtl.data.store.reader import Store
from lungtl.sources.base import NON_NODULE, UNKNOWN


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
        features: float [S_i, K] a bag, from the feature cache, or None.
        frames: int16 [S_i, C, H, W] a bag, not turned yet, or None when there are features.
        views: the dihedral view each bag is to be seen in; features are of that view.
        positions: int64 [S_i] a bag: which of the bag's slices these are, ascending.
    """

    bag_ids: list[str]
    bag_labels: Tensor
    slice_labels: Tensor
    features: list[Tensor] | None
    frames: list[Tensor] | None
    views: list[int]
    positions: list[Tensor]

    def pin_memory(self) -> Batch:
        """Itself in page-locked memory, from which a GPU copies faster; what a loader with `pin_memory=True` calls."""
        return self._each(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """Itself on a device; what Lightning calls, which without it would look through every attribute."""
        onto_gpu = device.type == "cuda"  # from page-locked memory, while the host goes on
        return self._each(lambda tensor: tensor.to(device, non_blocking=onto_gpu))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with every tensor changed."""
        return replace(
            self,
            bag_labels=change(self.bag_labels),
            slice_labels=change(self.slice_labels),
            features=None if self.features is None else [change(rows) for rows in self.features],
            frames=None if self.frames is None else [change(frames) for frames in self.frames],
            positions=[change(positions) for positions in self.positions],
        )


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

    What is drawn of a bag follows from `key` and the index alone: the same in every process, and in a resumed run. An
    index beyond the number of bags means the same bags once more, drawn anew.

    Args:
        store: where they lie.
        bag_ids: which, in this order.
        labels: bag_id -> label.
        features: from the feature cache; None reads voxels.
        neighbours: frames are the slice before, the slice and the slice after.
        draw: slices drawn from a longer bag, see `draw_slices`; None takes all.
        augment: draw a dihedral view of each bag.
        key: the run's seed and the epoch.
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
        key: tuple[int, int] = (0, 0),
    ) -> None:
        self.store = store
        self.bag_ids = list(bag_ids)
        self.labels = labels
        self.features = features
        self.neighbours = neighbours
        self.draw = draw
        self.augment = augment
        self.key = key

    def __len__(self) -> int:
        return len(self.bag_ids)

    def __getitem__(self, index: int) -> Sample:
        bag_id = self.bag_ids[index % len(self.bag_ids)]
        labels = torch.from_numpy(self.store.slice_labels(bag_id).astype(np.int64))
        generator = self._generator(index)
        kept = None
        if self.draw is not None and len(labels) > self.draw:
            kept = draw_slices(labels, self.draw, generator)
        positions = torch.arange(len(labels)) if kept is None else kept
        view = random_view(generator) if self.augment else 0
        features = frames = None
        if self.features is not None:
            features = self.features.rows(bag_id, view, kept)
        else:
            frames = read_frames(self.store.voxels(bag_id), positions.numpy(), self.neighbours)
        bag_label = self.labels.get(bag_id, UNKNOWN)
        return Sample(bag_id, bag_label, labels[positions], positions, features, frames, view)

    def _generator(self, index: int) -> torch.Generator:
        (seed,) = np.random.SeedSequence([*self.key, index]).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(seed))


def draw_slices(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Some slices of a bag: those with a nodule first, then others at random; a random part of either when too many.

    Nodules are in few slices of a scan, of which a plain draw would miss most.

    Args:
        labels: int64 [S]; slices of unknown label are among the others.
        count: how many, at most S.
        generator: of the draw.

    Returns:
        int64 [count], ascending indices.
    """
    order = torch.randperm(len(labels), generator=generator)
    first = (labels[order] <= NON_NODULE).int().argsort(stable=True)
    return order[first][:count].sort().values


def read_frames(voxels: NDArray[np.int16], indices: NDArray[np.int64], neighbours: bool) -> Tensor:
    """Slices of a bag, int16 [n, C, H, W]; with neighbours C = 3, the ends repeating themselves."""
    if not neighbours:
        return torch.from_numpy(voxels[indices])[:, None]
    around = np.clip(indices[:, None] + np.array([-1, 0, 1]), 0, len(voxels) - 1)
    return torch.from_numpy(voxels[around])


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples together; only their labels are padded to the longest."""
    return Batch(
        bag_ids=[sample.bag_id for sample in samples],
        bag_labels=torch.tensor([sample.bag_label for sample in samples]),
        slice_labels=pad_sequence([s.slice_labels for s in samples], batch_first=True, padding_value=UNKNOWN),
        features=[s.features for s in samples if s.features is not None] or None,
        frames=[s.frames for s in samples if s.frames is not None] or None,
        views=[sample.view for sample in samples],
        positions=[sample.positions for sample in samples],
    )
