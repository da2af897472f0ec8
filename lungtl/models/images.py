"""The slices of a store as the backbone's input images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungtl.data.augment import dihedral
from lungtl.data.bags import read_frames
from lungtl.models.bag_classifier import BagClassifier, full_chunks


class Voxels(Protocol):
    """A source of slices, such as a `Store`."""

    def voxels(self, bag_id: str) -> NDArray[np.int16]:
        """int16 [S, H, W] of a bag."""


def image_chunks(
    classifier: BagClassifier, store: Voxels, bag_ids: Sequence[str], device: torch.device, view: int = 0
) -> Iterator[Tensor]:
    """Preprocessed slices of bags, in order, in full chunks; scans are read chunk by chunk.

    Args:
        classifier: its preprocessor and chunk size are used.
        store: whose slices.
        bag_ids: which bags.
        device: where to preprocess.
        view: dihedral view of the slices.
    """
    images = (
        classifier.preprocessor(dihedral(_to_device(frames, device), view))
        for bag_id in bag_ids
        for frames in _read(store.voxels(bag_id), classifier.preprocessor.neighbours, classifier.chunk)
    )
    return full_chunks(images, classifier.chunk)


def _read(voxels: NDArray[np.int16], neighbours: bool, size: int) -> Iterator[Tensor]:
    for start in range(0, len(voxels), size):
        yield read_frames(voxels, np.arange(start, min(start + size, len(voxels))), neighbours)


def _to_device(frames: Tensor, device: torch.device) -> Tensor:
    """Copy frames to a device; to a GPU asynchronously, from pinned memory."""
    return frames.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else frames.to(device)
