"""Cached features: the output of a backbone's frozen blocks, computed once and shared by all runs that need it.

An entry has one row per slice (see `lungtl.models.backbones.split`): all slices in the store's order, one dihedral view
after the other. It is reused only if the current code reproduces the features of a few synthetic slices, the probe.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungtl.data.cache_folder import CacheFolder, Layout, map_array
from lungtl.data.store.reader import Store
from lungtl.models.backbones.split import CannotSplit
from lungtl.models.bag_classifier import BagClassifier, SpacedVoxels, image_chunks
from lungtl.models.folding import full_precision, is_close
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.module_state import evaluation_mode
from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import TrainConfig
from lungtl.sources.base import fingerprint
from lungtl.sources.progress import bar

log = logging.getLogger(__name__)
T = TypeVar("T")
LAYOUT_VERSION = 1  # increase it when the order or meaning of an entry's rows changes, which the probe cannot detect
PROBE, PROBE_SLICES, PROBE_GRID = "probe.npy", 3, 8  # file; number of slices, and of squares along each side of one
HU_RANGE = (-1024, 1024)
TOLERANCE = 1e-4  # relative difference between float32 features that may be rounding, as between two kinds of CPU


class CachedFeatures:
    """Features of a store's slices, memory-mapped: `lungtl.data.bags.Features`."""

    def __init__(self, file: Path, layout: Layout, store: Store) -> None:
        self._file, self._layout = file, layout
        self._table = _as_tensor(file, layout)
        self._slices = len(store.slices)
        self.views = layout.rows // self._slices
        ends = np.cumsum(store.bags["n_slices"].to_numpy())
        self._bags = {
            str(bag_id): (int(end - n), int(n))
            for bag_id, n, end in zip(store.bags["bag_id"], store.bags["n_slices"], ends, strict=True)
        }

    def rows(self, bag_id: str, view: int = 0, indices: Tensor | None = None) -> Tensor:
        """Copies of some or all rows of a bag: float32 or float16 [n, K]; see `Features`."""
        start, count = self._bags[bag_id]
        rows = self._table.narrow(0, view * self._slices + start, count)
        return rows.clone() if indices is None else rows.index_select(0, indices)

    def __getstate__(self) -> dict[str, Any]:
        """For spawned loader processes: the location of the array instead of its content."""
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
    """Features that a training run reads instead of voxels; cuts the classifier's backbone accordingly.

    Returns None if nothing is frozen or can be cached; the run then computes everything in every epoch.
    """
    settings = config.cache
    blocks = freezing.frozen_blocks(classifier.backbone)
    if not settings.enabled:
        return None
    if blocks == 0:
        log.info("features are not cached: the freezing strategy trains the first block")
        return None
    if config.image.augment == "ct":
        log.info("features are not cached: image.augment=ct changes the images of every step")
        return None
    if config.image.augment != "none" and settings.views == 1:
        log.warning("features are not cached, since image.augment needs all flips and quarter turns; use cache.views=8")
        return None
    try:
        classifier.cut(blocks)
    except CannotSplit as error:
        log.warning("features are not cached: %s", error)
        return None
    return cached_features(
        classifier, store, config.data_dir, device, weights, settings.views, settings.precision, settings.max_gb
    )


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
    """Read the features of a store's slices from the cache, after computing them if needed.

    The classifier's preprocessor and the prefix of its split are used, in evaluation mode; `weights` is its backbone's
    fingerprint. Returns None if the features exceed `max_gb`, the limit of all entries together. Raises LungtlError if
    the disk is full, or if features exceed the range of float16.
    """
    address = _address(classifier, store, weights) | {"views": views, "precision": precision}
    layout = Layout(views * len(store.slices), classifier.row_width, precision)
    folder = CacheFolder(data_dir)
    name = fingerprint(address)[:16]
    classifier.to(device)  # not in inference mode: tensors moved there could not train
    with (
        folder.locked(name),  # of runs that start together, one computes
        evaluation_mode(classifier),
        torch.inference_mode(),
        classifier.folded(),
    ):
        probe = _probe_features(classifier, store, device, views)
        if folder.is_complete(name) and _reproduces(folder.file(name), probe):
            log.info("features: read from the cache (%s)", name)
        else:
            try:
                with folder.explain_full_disk(layout):
                    file = folder.reserve(name, layout, max_gb)
                    if file is None:
                        return None
                    _compute(classifier, store, file, layout, views, device)
                    np.save(file.with_name(PROBE), probe.numpy())
            except BaseException:  # also an interrupt: free the space
                folder.discard(name)
                raise
            folder.publish(name, address)
            log.info("cached features: %.1f MB (%s)", layout.size / 1e6, name)
    return CachedFeatures(folder.file(name), layout, store)


def _address(classifier: BagClassifier, store: Store, weights: str) -> dict[str, Any]:
    return {
        "layout": LAYOUT_VERSION,
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
        "store": store.fingerprint,
        "store_name": store.name,
        "backbone": classifier.backbone.name,
        "weights": weights,
        "features": classifier.backbone.features,
        "blocks": classifier.split.blocks,
        "whole": classifier.split.whole,
        "preprocessing": classifier.preprocessor.describe(),
    }


def _probe_slices(store: Store) -> NDArray[np.int16]:
    """Synthetic slices of the store's size: random squares that span its value range; int16 [n, H, W]."""
    height, width = store.voxels(str(store.bags["bag_id"].iloc[0])).shape[1:]
    low, high = store.value_range or HU_RANGE
    grid = np.random.default_rng(0).integers(low, high, (PROBE_SLICES, PROBE_GRID, PROBE_GRID), np.int16, True)
    rows, columns = np.arange(height) * PROBE_GRID // height, np.arange(width) * PROBE_GRID // width
    slices: NDArray[np.int16] = grid[:, rows[:, None], columns]
    return slices


def _probe_features(classifier: BagClassifier, store: Store, device: torch.device, views: int) -> Tensor:
    """Features of the probe, in its first and last view, from the current code and weights; on the CPU."""
    volume = (_probe_slices(store), store.spacing_mm(str(store.bags["bag_id"].iloc[0])))
    with full_precision():
        rows = [rows for view in sorted({0, views - 1}) for rows in _rows(classifier, [volume], device, view)]
        return torch.cat(rows).cpu()


def _reproduces(file: Path, probe: Tensor) -> bool:
    """Whether the probe's features stored with an entry equal the given ones, up to rounding."""
    try:
        stored = torch.from_numpy(np.load(file.with_name(PROBE)))
    except (OSError, ValueError):
        return False
    if stored.shape == probe.shape and is_close(probe, stored, TOLERANCE):
        return True
    log.warning("features: the code's results differ from those of the cache entry; computing them again")
    return False


def _rows(
    classifier: BagClassifier, volumes: Iterable[SpacedVoxels], device: torch.device, view: int
) -> Iterator[Tensor]:
    """Features of all slices of bags, in chunks."""
    return map(classifier.prefix, image_chunks(classifier, volumes, device, view))


def _compute(
    classifier: BagClassifier, store: Store, file: Path, layout: Layout, views: int, device: torch.device
) -> None:
    done, dtype = 0, getattr(torch, layout.dtype)
    bag_ids = list(store.bags["bag_id"])
    computed = (
        rows.to(dtype)
        for view in range(views)
        for rows in _rows(classifier, ((store.voxels(b), store.spacing_mm(b)) for b in bag_ids), device, view)
    )
    with file.open("r+b") as opened, bar("embedding slices") as progress:
        opened.seek(len(layout.header))
        for fetch in _one_ahead(_start_fetching(rows) for rows in computed):
            rows = fetch()
            if dtype is torch.float16 and not rows.isfinite().all():
                raise LungtlError("features exceed float16 (65504); use cache.precision=float32")
            opened.write(rows.contiguous().numpy().data)
            done += len(rows)
            progress(done, layout.rows)
        opened.flush()
        os.fsync(opened.fileno())  # the content must be on disk before the entry is published


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield each item once the next has started, so that GPU and disk overlap."""
    pending: list[T] = []
    for item in items:
        yield from pending
        pending = [item]
    yield from pending


def _start_fetching(rows: Tensor) -> Callable[[], Tensor]:
    """Start copying rows to the CPU; the returned function waits for this copy only, not for later work of the GPU."""
    if rows.device.type != "cuda":
        return rows.cpu
    copy = torch.empty(rows.shape, dtype=rows.dtype, pin_memory=True).copy_(rows, non_blocking=True)
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(rows.device))

    def wait() -> Tensor:
        done.synchronize()
        return copy

    return wait


def _as_tensor(file: Path, layout: Layout) -> Tensor:
    array = map_array(file, layout)
    with warnings.catch_warnings():  # torch has no read-only tensors; rows are handed out as copies
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)
