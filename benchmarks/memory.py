"""Memory and time of fine-tuning whole scans: with activations computed again beyond a budget, and with all kept."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from unittest import mock

from benchmarks.measure import Row
from benchmarks.setting import RANDOM, Setting

CASE = ("freezing=lora", RANDOM, "trainer.accelerator=cpu")
STEPS = 2  # the last one is timed
MOST_GB, MAX_SLOWDOWN = 4.0, 1.35  # targets


def compare() -> list[Row]:
    """One row: a step of `freezing=lora` on 12 scans with the defaults, each way in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        Setting(Path(folder), *CASE)  # prepares the phantom
        (gb, seconds), (whole_gb, whole_seconds) = (_in_new_process(Path(folder), kept) for kept in (False, True))
    return [{
        "what": "training step, lora, 12 scans", "gb": f"{gb:.2f}", "seconds": f"{seconds:.2f}",
        "against": "all activations kept", "against_gb": f"{whole_gb:.2f}", "against_seconds": f"{whole_seconds:.2f}",
        "slowdown": f"{seconds / whole_seconds:.2f}", "target": f"{MOST_GB:g} GB, {MAX_SLOWDOWN}",
    }]  # fmt: skip


def _in_new_process(data_dir: Path, kept: bool) -> tuple[float, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(peak_and_seconds, (data_dir, kept))


def peak_and_seconds(data_dir: Path, kept: bool, *overrides: str) -> tuple[float, float]:
    """Peak memory of this process in GB, and seconds of a step: forward, loss and backward pass of the first batch.

    Args:
        data_dir: of the phantom.
        kept: whether all slices pass at once and all activations are kept, as for batch norms that train.
        overrides: of the command line.
    """
    from lungtl.settings.allocator import keep_freed_memory

    keep_freed_memory()  # as the commands do
    setting = Setting(data_dir, *CASE, *overrides)
    module, batch = setting.module, next(iter(setting.data.train_dataloader()))
    module.train()
    with mock.patch("lungtl.models.bag_classifier.mixes_slices", return_value=kept):
        for _ in range(STEPS):
            start = time.perf_counter()
            module.loss.combined(module.loss.parts(module(batch), batch.bag_labels, batch.slice_labels)).backward()
    seconds = time.perf_counter() - start
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, seconds
