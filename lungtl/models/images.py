"""Slices of bags as the backbone's images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungtl.data.augment import dihedral
from lungtl.data.bags import read_frames
from lungtl.models.bag_classifier import BagClassifier, full_chunks


def image_chunks(
    classifier: BagClassifier, volumes: Iterable[NDArray[np.int16]], device: torch.device, view: int = 0
) -> Iterator[Tensor]:
    """Preprocessed slices of bags, in order, in full chunks.

    Args:
        classifier: its preprocessor and chunk size are used.
        volumes: int16 [S_i, H, W] each, read chunk by chunk if they are memory-mapped.
        device: of the images.
        view: dihedral view of every slice.
    """
    images = (
        classifier.preprocessor(dihedral(_to_device(frames, device), view))
        for voxels in volumes
        for frames in _read(voxels, classifier.preprocessor.neighbours, classifier.chunk)
    )
    return full_chunks(images, classifier.chunk)


def _read(voxels: NDArray[np.int16], neighbours: bool, size: int) -> Iterator[Tensor]:
    for start in range(0, len(voxels), size):
        yield read_frames(voxels, np.arange(start, min(start + size, len(voxels))), neighbours)


def _to_device(frames: Tensor, device: torch.device) -> Tensor:
    """Copy frames to a device; to a GPU asynchronously, from pinned memory."""
    return frames.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else frames.to(device)
