"""Bags as torch samples, and how they are put together into batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from lungtl.sources.base import UNKNOWN
from lungtl.store.reader import Store


@dataclass
class Batch:
    """Several bags.

    Attributes:
        bag_ids: B of them.
        bag_labels: int64 [B]; -1 unknown.
        slice_labels: int64 [B, S]; -1 unknown or padding.
        mask: bool [B, S]; True where a slice is real.
        embeddings: float [B, S, D] from the feature cache, or None.
        frames: int16 [S_i, C, H, W] a bag, or None when there are embeddings.
    """

    bag_ids: list[str]
    bag_labels: Tensor
    slice_labels: Tensor
    mask: Tensor
    embeddings: Tensor | None
    frames: list[Tensor] | None


@dataclass(frozen=True)
class Sample:
    """One bag: see `Batch`."""

    bag_id: str
    bag_label: int
    slice_labels: Tensor
    embeddings: Tensor | None
    frames: Tensor | None


class BagDataset(Dataset[Sample]):
    """Bags of a store.

    Args:
        store: where they lie.
        bag_ids: which, in this order.
        labels: bag_id -> label.
        features: bag_id -> float [S, D] from the feature cache; None reads voxels.
        neighbours: frames are the slice before, the slice and the slice after.
        draw: slices drawn at random from a longer bag, afresh each time; None takes all.
    """

    def __init__(
        self,
        store: Store,
        bag_ids: Sequence[str],
        labels: Mapping[str, int],
        features: Mapping[str, NDArray[np.float32]] | None = None,
        neighbours: bool = False,
        draw: int | None = None,
    ) -> None:
        self.store = store
        self.bag_ids = list(bag_ids)
        self.labels = labels
        self.features = features
        self.neighbours = neighbours
        self.draw = draw

    def __len__(self) -> int:
        return len(self.bag_ids)

    def __getitem__(self, index: int) -> Sample:
        bag_id = self.bag_ids[index]
        labels = torch.from_numpy(self.store.slice_labels(bag_id).astype(np.int64))
        kept = self._drawn(len(labels))
        embeddings = frames = None
        if self.features is not None:
            embeddings = torch.from_numpy(np.array(self.features[bag_id]))[kept]
        else:
            frames = read_frames(self.store.voxels(bag_id), kept.numpy(), self.neighbours)
        return Sample(bag_id, self.labels.get(bag_id, UNKNOWN), labels[kept], embeddings, frames)

    def _drawn(self, count: int) -> Tensor:
        if self.draw is None or count <= self.draw:
            return torch.arange(count)
        return torch.randperm(count)[: self.draw].sort().values  # torch's generator: seeded with the run


def read_frames(voxels: NDArray[np.int16], indices: NDArray[np.int64], neighbours: bool) -> Tensor:
    """Slices of a bag, int16 [n, C, H, W]; with neighbours C = 3, the ends repeating themselves."""
    if not neighbours:
        return torch.from_numpy(voxels[indices])[:, None]
    around = np.clip(indices[:, None] + np.array([-1, 0, 1]), 0, len(voxels) - 1)
    return torch.from_numpy(voxels[around])


def collate(samples: Sequence[Sample]) -> Batch:
    """Pad samples to the longest."""
    lengths = torch.tensor([len(sample.slice_labels) for sample in samples])
    embeddings = [s.embeddings for s in samples if s.embeddings is not None]
    frames = [s.frames for s in samples if s.frames is not None]
    return Batch(
        bag_ids=[sample.bag_id for sample in samples],
        bag_labels=torch.tensor([sample.bag_label for sample in samples]),
        slice_labels=pad_sequence([s.slice_labels for s in samples], batch_first=True, padding_value=UNKNOWN),
        mask=torch.arange(int(lengths.max())) < lengths[:, None],
        embeddings=pad_sequence(embeddings, batch_first=True) if embeddings else None,
        frames=frames or None,
    )
