"""The slices of a store as the backbone's images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lungtl.data.augment import dihedral
from lungtl.data.bags import read_frames
from lungtl.data.store.reader import Store
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.chunks import full_chunks


def image_chunks(
    classifier: BagClassifier, store: Store, bag_ids: Sequence[str], device: torch.device, view: int = 0
) -> Iterator[Tensor]:
    """Preprocessed slices of bags, in order, in full chunks; no scan is read as a whole."""
    pieces = (
        classifier.preprocessor(dihedral(_moved(frames, device), view))
        for bag_id in bag_ids
        for frames in _read(store, bag_id, classifier.preprocessor.neighbours, classifier.chunk)
    )
    return full_chunks(pieces, classifier.chunk)


def _read(store: Store, bag_id: str, neighbours: bool, most: int) -> Iterator[Tensor]:
    voxels = store.voxels(bag_id)
    for start in range(0, len(voxels), most):
        yield read_frames(voxels, np.arange(start, min(start + most, len(voxels))), neighbours)


def _moved(frames: Tensor, device: torch.device) -> Tensor:
    """Frames on a device; onto a GPU from page-locked memory, while the host goes on."""
    return frames.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else frames.to(device)
