"""What the frozen blocks of a backbone compute, computed once and shared by every run that asks for it again.

An entry is addressed by all that decides its numbers: the store's content, the backbone's weights, the preprocessing,
where the backbone is cut, the views, the precision, and the code. It holds one row a slice (see
`lungtl.models.backbones.split`), all slices in the store's order, one dihedral view after the other.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import timm
import torch
from torch import Tensor

from lungtl.data.cache_folder import GB, CacheFolder, Layout, map_array
from lungtl.data.store.reader import Store
from lungtl.models.backbones.split import CannotSplit
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.evaluating import evaluating
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.images import image_chunks
from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import TrainConfig
from lungtl.sources.base import fingerprint, sha256
from lungtl.sources.progress import bar

log = logging.getLogger(__name__)
T = TypeVar("T")
COMPUTES = ("data.augment", "data.bags", "data.windows", "models.backbones.split", "models.backbones.timm_backbone",
            "models.chunks", "models.folding", "models.replacing", "models.rounding", "models.images",
            "training.feature_cache")  # fmt: skip
"""The modules of lungtl that decide what is in an entry; with any change in one of them, features are computed anew."""


class CachedFeatures:
    """The rows of a store's slices, memory-mapped: `lungtl.data.bags.Features`.

    Args:
        file: of the entry.
        layout: of its array; as many rows as the store has slices, times the views.
        store: whose slices.
    """

    def __init__(self, file: Path, layout: Layout, store: Store) -> None:
        self._file, self._layout = file, layout
        self._table = _as_tensor(file, layout)
        self._slices = len(store.slices)
        ends = np.cumsum(store.bags["n_slices"].to_numpy())
        self._bags = {
            str(bag_id): (int(end - n), int(n))
            for bag_id, n, end in zip(store.bags["bag_id"], store.bags["n_slices"], ends, strict=True)
        }

    def rows(self, bag_id: str, view: int = 0, kept: Tensor | None = None) -> Tensor:
        """Some slices of a bag, or all: float32 or float16 [n, K]; see `Features`."""
        start, count = self._bags[bag_id]
        rows = self._table.narrow(0, view * self._slices + start, count)
        return rows.clone() if kept is None else rows.index_select(0, kept)

    def __getstate__(self) -> dict[str, Any]:
        """What a loader process gets where processes are spawned: not the array, but where it is."""
        return {key: value for key, value in self.__dict__.items() if key != "_table"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._table = _as_tensor(self._file, self._layout)


def run_features(
    config: TrainConfig,
    classifier: BagClassifier,
    freezing: FreezingStrategy,
    store: Store,
    device: torch.device,
    weights: str,
) -> CachedFeatures | None:
    """What a training run reads instead of voxels; cuts the classifier's backbone accordingly.

    Args:
        config: of the run.
        classifier: as it starts to train.
        freezing: which of its blocks never train.
        store: whose slices.
        device: where to compute.
        weights: the backbone's fingerprint.

    Returns:
        None where nothing is frozen or can be kept; then the run computes everything in every epoch.
    """
    wanted = config.cache
    blocks = freezing.frozen_blocks(classifier.backbone)
    turned = config.image.augment != "none"
    if not wanted.enabled:
        return None
    if blocks == 0:
        log.info("features: none are cached, since the strategy trains the first block too")
        return None
    if turned and wanted.views == 1:
        log.warning(
            "features: computed anew in every epoch, since image.augment turns slices and the cache keeps them as they "
            "are; give cache.views=8 to keep all eight turns"
        )
        return None
    try:
        classifier.cut(blocks)
    except CannotSplit as error:
        log.warning("features: %s; this run computes them anew in every epoch", error)
        return None
    return cached_features(classifier, store, config.data_dir, device, weights, wanted.views, wanted.precision,
                           wanted.max_gb)  # fmt: skip


def cached_features(
    classifier: BagClassifier,
    store: Store,
    data_dir: Path,
    device: torch.device,
    weights: str,
    views: int = 1,
    precision: str = "float32",
    max_gb: float = 50,
) -> CachedFeatures | None:
    """Read the features of a store's slices from the cache; compute them first when they are not there.

    Args:
        classifier: its preprocessor and the prefix of its split are used, in evaluation mode.
        store: whose slices.
        data_dir: the cache is its folder `cache/features`.
        device: where to compute.
        weights: the backbone's fingerprint.
        views: the first so many dihedral views of every slice.
        precision: float32 or float16, of what is kept.
        max_gb: of all entries together.

    Returns:
        None where they do not fit into `max_gb`.

    Raises:
        LungtlError: the disk is full, or float16 cannot hold the features.
    """
    split = classifier.split
    address = {
        "code": code_version(),
        "store": store.fingerprint,
        "store_name": store.name,
        "backbone": classifier.backbone.name,
        "weights": weights,
        "features": classifier.backbone.features,
        "blocks": split.blocks,
        "whole": split.whole,
        "preprocessing": classifier.preprocessor.describe(),
        "views": views,
        "precision": precision,
    }
    layout = Layout(views * len(store.slices), split.width, precision)
    folder = CacheFolder(data_dir)
    name = fingerprint(address)[:16]
    with folder.locked(name):  # of runs that start together, one computes
        if folder.is_complete(name, address, layout):
            log.info("features: from the cache (%s)", name)
        else:
            try:
                with folder.explain_full_disk(layout):
                    file = folder.reserve(name, layout, max_gb)
                    if file is None:
                        return None
                    _compute(classifier, store, file, layout, views, device)
            except BaseException:  # an interrupt too: the space is wanted elsewhere
                folder.discard(name)
                raise
            folder.publish(name, address)
            log.info("features: %.2f GB kept for the next run (%s)", layout.size / GB, name)
        return CachedFeatures(folder.file(name), layout, store)


@cache
def code_version() -> dict[str, str]:
    """What computes features: the versions of torch and timm, and the hash of lungtl's own part."""
    names = [f"lungtl.{name}" for name in COMPUTES]
    sources = [Path(str(import_module(name).__file__)) for name in names]
    return {"torch": torch.__version__, "timm": timm.__version__, "lungtl": fingerprint([sha256(s) for s in sources])}


def _compute(
    classifier: BagClassifier, store: Store, file: Path, layout: Layout, views: int, device: torch.device
) -> None:
    done, dtype = 0, getattr(torch, layout.dtype)
    bag_ids = list(store.bags["bag_id"])
    classifier.to(device)  # not in inference mode: what is moved there cannot train
    with (
        evaluating(classifier),
        torch.inference_mode(),
        classifier.folded(),
        file.open("r+b") as opened,
        bar("embedding slices") as progress,
    ):
        opened.seek(len(layout.header))
        computed = (
            classifier.split.prefix(images).to(dtype)
            for view in range(views)
            for images in image_chunks(classifier, map(store.voxels, bag_ids), device, view)
        )
        for fetched in _one_ahead(_fetch(rows) for rows in computed):
            kept = fetched()
            if dtype is torch.float16 and not kept.isfinite().all():
                raise LungtlError(
                    f"features of {classifier.backbone.name} exceed float16 (65504); give cache.precision=float32"
                )
            opened.write(kept.contiguous().numpy().data)
            done += len(kept)
            progress(done, layout.rows)
        opened.flush()
        os.fsync(opened.fileno())  # the entry must not outlive its bytes


def _one_ahead(started: Iterator[T]) -> Iterator[T]:
    """The same; each is given when the next one is started: a GPU does not wait for the disk."""
    waiting: list[T] = []
    for work in started:
        yield from waiting
        waiting = [work]
    yield from waiting


def _fetch(rows: Tensor) -> Callable[[], Tensor]:
    """Start to copy rows to the CPU; what is returned waits for them, not for all that a CUDA GPU was asked since."""
    if rows.device.type != "cuda":
        return rows.cpu
    kept = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True).copy_(rows, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(rows.device))

    def wait() -> Tensor:
        done.synchronize()
        return kept

    return wait


def _as_tensor(file: Path, layout: Layout) -> Tensor:
    array = map_array(file, layout)
    with warnings.catch_warnings():  # torch cannot mark a tensor read-only and says so; rows are handed out as copies
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)
