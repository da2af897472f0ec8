"""The slices of a store as the backbone's images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lungtl.data.augment import dihedral
from lungtl.data.bags import read_frames
from lungtl.models.bag_classifier import BagClassifier
from lungtl.store.reader import Store


def image_chunks(
    classifier: BagClassifier, store: Store, bag_ids: Sequence[str], device: torch.device, view: int = 0
) -> Iterator[Tensor]:
    """Preprocessed slices of bags, in order, in full chunks: small bags share one, and no scan is read as a whole."""
    waiting: list[Tensor] = []
    for bag_id in bag_ids:
        voxels = store.voxels(bag_id)
        for start in range(0, len(voxels), classifier.chunk):
            indices = np.arange(start, min(start + classifier.chunk, len(voxels)))
            frames = read_frames(voxels, indices, classifier.preprocessor.neighbours)
            waiting.append(classifier.preprocessor(dihedral(_moved(frames, device), view)))
            if sum(map(len, waiting)) >= classifier.chunk:
                images = torch.cat(waiting)
                yield images[: classifier.chunk]
                waiting = [images[classifier.chunk :]]
    if sum(map(len, waiting)):
        yield torch.cat(waiting)


def _moved(frames: Tensor, device: torch.device) -> Tensor:
    """Themselves on a device; onto a GPU from page-locked memory, while the host goes on."""
    return frames.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else frames.to(device)
