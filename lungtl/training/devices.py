"""Resolve `trainer.accelerator`, `trainer.devices`, `trainer.precision` and `trainer.workers` on this machine."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path

import torch
from torch import multiprocessing

from lungtl.models.inference import MOST_BYTES
from lungtl.settings.errors import UsageError
from lungtl.settings.sections import TrainerConfig

log = logging.getLogger(__name__)
WORKERS_PER_GPU = 4  # loader processes that keep a GPU busy that trains on voxels (`make bench-gpu`)
PREFETCHED = 2  # batches that each loader process of torch holds ready
TENSORS_PER_BAG = 2  # that a batch holds: voxels or features, and positions
OTHER_FILES = 512  # that a process opens at most
SHARED_MEMORY = Path("/dev/shm")  # where loader processes pass tensors on Linux


def pick_device(accelerator: str) -> torch.device:
    """The device for auto, cpu, gpu or mps."""
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device({"gpu": "cuda"}.get(accelerator, accelerator))


def available_device(accelerator: str) -> torch.device:
    """The device for auto, cpu, gpu or mps; raises UsageError if this machine does not have it."""
    missing = {"gpu": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
    if missing.get(accelerator):
        raise UsageError(f"accelerator={accelerator}: torch finds no such device on this machine; use auto or cpu")
    return pick_device(accelerator)


def device_name(device: torch.device) -> str:
    """Name for a run's record: a GPU's model, otherwise the type, e.g. cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def device_count(config: TrainerConfig) -> int:
    """Number of devices; auto is every GPU, or one CPU."""
    if config.devices != "auto":
        return config.devices
    return torch.cuda.device_count() if pick_device(config.accelerator).type == "cuda" else 1


def check_precision(config: TrainerConfig) -> torch.device:
    """The training device; raises UsageError if it does not support the precision."""
    device = pick_device(config.accelerator)
    if config.precision == "16-mixed" and device.type == "cpu":  # Lightning would use bfloat16 instead
        raise UsageError(
            "trainer.precision=16-mixed requires a GPU, but this run uses the CPU; use trainer.precision=bf16-mixed or "
            "32-true"
        )
    return device


def loader_processes(config: TrainerConfig, cached: bool) -> int:
    """Number of loader processes; auto is 0, except for CUDA GPUs that train on voxels."""
    if config.workers != "auto":
        _allow_open_files(config.workers, config.batch_size)
        return config.workers
    on_voxels = pick_device(config.accelerator).type == "cuda" and not cached
    if not on_voxels or multiprocessing.get_start_method() != "fork":  # otherwise each imports torch in every epoch
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = max(0, min(WORKERS_PER_GPU, cores // device_count(config) - 1))
    memory = PREFETCHED * workers * device_count(config) * MOST_BYTES
    if SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(SHARED_MEMORY).free) < memory:
        log.warning(
            "trainer.workers=auto: no loader processes, since %s has %.2g GB free and %d of them may need %.2g GB; "
            "enlarge it (containers: --shm-size) or use trainer.workers=1",
            SHARED_MEMORY, free / 1e9, workers, memory / 1e9,
        )  # fmt: skip
        return 0
    _allow_open_files(workers, config.batch_size)
    return workers


def _allow_open_files(workers: int, batch_size: int) -> None:
    """Let loader processes pass their tensors: each is an open file in both processes, as long as that is allowed.

    A loader process that may not open another file sends nothing, and training would wait for ever.
    """
    if workers == 0 or sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    required = OTHER_FILES + PREFETCHED * workers * batch_size * TENSORS_PER_BAG
    if hard == resource.RLIM_INFINITY or required <= hard:
        if soft != resource.RLIM_INFINITY and soft < required:
            resource.setrlimit(resource.RLIMIT_NOFILE, (required, hard))
    elif soft != resource.RLIM_INFINITY:
        multiprocessing.set_sharing_strategy("file_system")
