"""Bags as torch samples, and their collation into batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from lungtl.data.field_of_view import UNKNOWN_SPACING, Spacing
from lungtl.data.store.reader import Store
from lungtl.sources.base import NON_NODULE, UNKNOWN

VIEWS = 8  # dihedral views of a slice: 0 is the slice itself, 0 to 3 are its quarter turns, 4 to 7 these mirrored


class Features(Protocol):
    """Precomputed output of the frozen part of the backbone."""

    views: int  # 1 or VIEWS

    def rows(self, bag_id: str, view: int, indices: Tensor | None, /) -> Tensor:
        """Features of the slices at `indices` (ascending; None: all) in a dihedral view: float [n, K], a copy."""


@dataclass
class Batch:
    """Several bags."""

    bag_ids: list[str]  # B ids
    bag_labels: Tensor  # float32 [B], 0, 1 or between (readers' votes); -1 unknown
    slice_labels: Tensor  # int64 [B, S]; -1 unknown or padding
    features: list[Tensor] | None  # one float [S_i, K] per bag, from the feature cache, or None
    frames: list[Tensor] | None  # one int16 [S_i, C, H, W] per bag, not augmented yet, or None if there are features
    views: list[int]  # dihedral view of each bag; features are already of that view
    positions: list[Tensor]  # one int64 [S_i] per bag: indices of its slices, ascending
    spacings: list[Spacing] = field(default_factory=list)  # (row, column) of each bag's frames, mm, not augmented yet
    seeds: list[int] | None = None  # of each bag's jitter; None: no jitter
    ratings: Tensor | None = None  # float32 [B, K], see `lungtl.training.readers`; None unless they are trained on

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory; called by loaders with `pin_memory=True`."""
        return self._map(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """A copy on a device; called by Lightning."""
        non_blocking = device.type == "cuda"  # from page-locked memory
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """Apply a function to every tensor."""
        return replace(
            self,
            bag_labels=function(self.bag_labels),
            slice_labels=function(self.slice_labels),
            features=None if self.features is None else [function(rows) for rows in self.features],
            frames=None if self.frames is None else [function(frames) for frames in self.frames],
            positions=[function(positions) for positions in self.positions],
            ratings=None if self.ratings is None else function(self.ratings),
        )


@dataclass(frozen=True)
class Sample:
    """One bag: see `Batch`."""

    bag_id: str
    bag_label: float
    slice_labels: Tensor
    positions: Tensor
    features: Tensor | None
    frames: Tensor | None
    view: int = 0
    spacing_mm: Spacing = UNKNOWN_SPACING
    seed: int | None = None
    ratings: Tensor | None = None


@dataclass(eq=False)
class BagDataset(Dataset[Sample]):
    """Bags of a store.

    Random choices depend only on `key` and the index, so they are the same in every process and in a resumed run. An
    index beyond the number of bags is the same bag with new random choices.
    """

    store: Store  # the store
    bag_ids: list[str]  # ids, in this order
    labels: Mapping[str, float]  # bag_id -> label, or its readers' votes
    features: Features | None = None  # from the feature cache; None reads voxels
    neighbours: bool = False  # frames are the previous, the current and the next slice
    draw: int | None = None  # maximum number of slices per bag, see `draw_slices`; None uses all
    augment: bool = False  # use a random dihedral view of each bag
    jitter: bool = False  # give each bag a seed for `lungtl.training.jitter`
    key: tuple[int, int] = (0, 0)  # seed of the run, and epoch
    ratings: Mapping[str, Tensor] | None = None  # bag_id -> ratings

    def __len__(self) -> int:
        return len(self.bag_ids)

    def __getitem__(self, index: int) -> Sample:
        bag_id = self.bag_ids[index % len(self.bag_ids)]
        labels = torch.from_numpy(self.store.slice_labels(bag_id).astype(np.int64))
        drawn, view, seed_of_bag = None, 0, None
        few = self.draw is not None and len(labels) > self.draw
        if few or self.augment or self.jitter:
            seed, jitter_seed = np.random.SeedSequence([*self.key, index]).generate_state(2, np.uint64)
            generator = torch.Generator().manual_seed(int(seed))
            drawn = draw_slices(labels, self.draw, generator) if self.draw is not None and few else None
            view = random_view(generator) if self.augment else 0
            seed_of_bag = int(jitter_seed) if self.jitter else None
        positions = torch.arange(len(labels)) if drawn is None else drawn
        features = frames = None
        if self.features is not None:
            features = self.features.rows(bag_id, view, drawn)
        else:
            frames = read_frames(self.store.voxels(bag_id), positions.numpy(), self.neighbours)
        bag_label = self.labels.get(bag_id, UNKNOWN)
        spacing_mm = self.store.spacing_mm(bag_id)
        ratings = None if self.ratings is None else self.ratings[bag_id]
        return Sample(bag_id, bag_label, labels[positions], positions, features, frames, view, spacing_mm,
                      seed_of_bag, ratings)  # fmt: skip


def dihedral(frames: Tensor, view: int) -> Tensor:
    """One of the eight views of all slices of a bag: [S, C, H, W]."""
    mirrored, turns = divmod(view, 4)
    turned = torch.rot90(frames, turns, dims=(-2, -1)) if turns else frames
    return turned.flip(-1) if mirrored else turned


def turned(spacing_mm: Spacing, view: int) -> Spacing:
    """The (row, column) spacing in a dihedral view."""
    return (spacing_mm[1], spacing_mm[0]) if view % 2 else spacing_mm


def random_view(generator: torch.Generator) -> int:
    """A random dihedral view."""
    return int(torch.randint(VIEWS, (), generator=generator))


def draw_slices(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ascending indices of slices: first those with a nodule, then random others; random ones if too many.

    Only few slices of a scan show a nodule, and uniform sampling would miss most of them.
    """
    order = torch.randperm(len(labels), generator=generator)
    nodules_first = (labels[order] <= NON_NODULE).int().argsort(stable=True)
    return order[nodules_first][:count].sort().values


def read_frames(voxels: NDArray[np.int16], indices: NDArray[np.int64], neighbours: bool) -> Tensor:
    """Slices of a bag, int16 [n, C, H, W]; with neighbours C = 3, repeating the first and last slice at the ends."""
    if not neighbours:
        return torch.from_numpy(voxels[indices])[:, None]
    around = np.clip(indices[:, None] + np.array([-1, 0, 1]), 0, len(voxels) - 1)
    return torch.from_numpy(voxels[around])


def collate(samples: Sequence[Sample]) -> Batch:
    """Combine samples into a batch; only slice labels are padded to the longest bag."""
    ratings = [sample.ratings for sample in samples if sample.ratings is not None]
    return Batch(
        bag_ids=[sample.bag_id for sample in samples],
        bag_labels=torch.tensor([float(sample.bag_label) for sample in samples]),
        slice_labels=pad_sequence([s.slice_labels for s in samples], batch_first=True, padding_value=UNKNOWN),
        features=[s.features for s in samples if s.features is not None] or None,
        frames=[s.frames for s in samples if s.frames is not None] or None,
        views=[sample.view for sample in samples],
        positions=[sample.positions for sample in samples],
        spacings=[sample.spacing_mm for sample in samples],
        seeds=[s.seed for s in samples if s.seed is not None] or None,
        ratings=torch.stack(ratings) if ratings else None,
    )
