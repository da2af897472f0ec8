"""How many processes load what a run trains on: what `trainer.workers` means on this machine."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from torch import multiprocessing

from lungtl.models.inference import MOST_BYTES
from lungtl.settings.schema import TrainerConfig
from lungtl.training.devices import device_count, pick_device

log = logging.getLogger(__name__)
PER_GPU = 4
"""So many keep a GPU busy that trains on voxels (`make bench-gpu`)."""
AHEAD = 2
"""Batches that each process of torch's loader has ready."""
SHARED = Path("/dev/shm")
"""Through which processes hand over tensors on Linux."""


def loader_processes(config: TrainerConfig, cached: bool) -> int:
    """How many: auto is none, but a few where a CUDA GPU waits for voxels and cores and shared memory allow them.

    Args:
        config: of the trainer.
        cached: whether features are read: that is quicker than to hand them over between processes.
    """
    if config.workers != "auto":
        return config.workers
    waits = pick_device(config.accelerator).type == "cuda" and not cached
    if not waits or multiprocessing.get_start_method() != "fork":  # others import torch anew, in every epoch
        return 0
    wanted = max(0, min(PER_GPU, _cores() // device_count(config) - 1))
    memory = AHEAD * wanted * device_count(config) * MOST_BYTES
    if SHARED.is_dir() and (free := shutil.disk_usage(SHARED).free) < memory:
        log.warning(
            "trainer.workers=auto: none, since %s has %.2g GB free and %d processes may need %.2g; a container gets "
            "more by --shm-size, fewer are started by trainer.workers=1",
            SHARED, free / 1e9, wanted, memory / 1e9,
        )  # fmt: skip
        return 0
    return wanted


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
