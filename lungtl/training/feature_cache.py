"""What a frozen backbone computes, computed once and shared by every run that asks for it again.

An entry is addressed by the store's content, the backbone's weights and the preprocessing; it holds one float32
array of all slices' embeddings. It appears whole (written beside and renamed) and is read through a memory map.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import nn

from lungtl.data.bags import read_frames
from lungtl.models.bag_classifier import BagClassifier
from lungtl.progress import bar
from lungtl.sources.base import fingerprint
from lungtl.store.reader import Store

log = logging.getLogger(__name__)
CODE_VERSION = 1  # raise when the same weights and preprocessing would give other features
FEATURES = "features.npy"


class CachedFeatures(Mapping[str, NDArray[np.float32]]):
    """bag_id -> float32 [S, D], views into a memory-mapped array of all slices in the store's order."""

    def __init__(self, array: NDArray[np.float32], store: Store) -> None:
        ends = np.cumsum(store.bags["n_slices"].to_numpy())
        self._array = array
        self._rows = {
            str(bag_id): (int(end - n), int(end))
            for bag_id, n, end in zip(store.bags["bag_id"], store.bags["n_slices"], ends, strict=True)
        }

    def __getitem__(self, bag_id: str) -> NDArray[np.float32]:
        start, end = self._rows[bag_id]
        return self._array[start:end]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def cached_features(
    classifier: BagClassifier, store: Store, data_dir: Path, device: torch.device, weights: str
) -> CachedFeatures:
    """Read the embeddings of a store's slices from the cache; compute them first when they are not there.

    Args:
        classifier: its preprocessor and backbone are used, the backbone in evaluation mode.
        store: whose slices.
        data_dir: the cache is its folder `cache/features`.
        device: where to compute.
        weights: the backbone's fingerprint.
    """
    address = {
        "code": CODE_VERSION,
        "store": store.fingerprint,
        "weights": weights,
        "features": classifier.backbone.features,
        "preprocessing": classifier.preprocessor.describe(),
    }
    folder = data_dir / "cache" / "features" / fingerprint(address)[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # of runs that start together, one computes
        if (folder / FEATURES).is_file():
            log.info("features: from the cache (%s)", folder.name)
        else:
            _compute(classifier, store, folder, device)
            (folder / "address.json").write_text(json.dumps(address, indent=2))  # for people
    return CachedFeatures(np.load(folder / FEATURES, mmap_mode="r", allow_pickle=False), store)


def _compute(classifier: BagClassifier, store: Store, folder: Path, device: torch.device) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    total = len(store.slices)
    array = open_memmap(partial / FEATURES, "w+", np.float32, (total, classifier.backbone.dim))
    done = 0
    with evaluating(classifier), torch.inference_mode(), bar("embedding slices") as progress:
        classifier.to(device)
        for images in _chunks(classifier, store, device):
            array[done : done + len(images)] = classifier.backbone(images).float().cpu().numpy()
            done += len(images)
            progress(done, total)
    array.flush()
    del array
    shutil.rmtree(folder, ignore_errors=True)  # an entry whose features someone deleted
    partial.replace(folder)


def _chunks(classifier: BagClassifier, store: Store, device: torch.device) -> Iterator[torch.Tensor]:
    """Preprocessed slices in the store's order, in full chunks: small bags share one."""
    waiting: list[torch.Tensor] = []
    for bag_id in store.bags["bag_id"]:
        voxels = store.voxels(bag_id)
        for start in range(0, len(voxels), classifier.chunk):
            indices = np.arange(start, min(start + classifier.chunk, len(voxels)))
            frames = read_frames(voxels, indices, classifier.preprocessor.neighbours)
            waiting.append(classifier.preprocessor(frames.to(device)))
            if sum(map(len, waiting)) >= classifier.chunk:
                images = torch.cat(waiting)
                yield images[: classifier.chunk]
                waiting = [images[classifier.chunk :]]
    if sum(map(len, waiting)):
        yield torch.cat(waiting)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)
