"""Memory and time of fine-tuning whole scans: with activations computed again beyond a budget, and with all kept."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

from benchmarks.measure import Row
from benchmarks.setting import RANDOM, Setting

CASE = ("freezing=lora", RANDOM, "trainer.accelerator=cpu")
STEPS = 2  # the last one is timed
MOST_GB, MAX_SLOWDOWN = 4.0, 1.35  # targets


def compare() -> list[Row]:
    """A step of `freezing=lora` with the defaults on 12 scans, and on 6 next to one that keeps all activations.

    Each is measured in a process of its own. With 12 scans, all activations take about 13 GB.
    """
    with tempfile.TemporaryDirectory() as folder:
        data_dir, fewer = Path(folder), "dataset.scans=6"
        gb, seconds = _in_new_process(data_dir, False)
        fewer_gb, fewer_seconds = _in_new_process(data_dir, False, fewer)
        whole_gb, whole_seconds = _in_new_process(data_dir, True, fewer)
    return [
        {"what": "training step, lora, 12 scans", "gb": f"{gb:.2f}", "cpu_seconds": f"{seconds:.2f}",
         "against": "", "against_gb": "", "against_cpu_seconds": "", "slowdown": "", "target": f"{MOST_GB:g} GB"},
        {"what": "training step, lora, 6 scans", "gb": f"{fewer_gb:.2f}", "cpu_seconds": f"{fewer_seconds:.2f}",
         "against": "all activations kept", "against_gb": f"{whole_gb:.2f}",
         "against_cpu_seconds": f"{whole_seconds:.2f}", "slowdown": f"{fewer_seconds / whole_seconds:.2f}",
         "target": f"{MAX_SLOWDOWN:g}"},
    ]  # fmt: skip


def _in_new_process(data_dir: Path, kept: bool, *overrides: str) -> tuple[float, float]:
    # not multiprocessing's own pool, whose processes may not start any, as preparing a dataset does
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_and_seconds, data_dir, kept, *overrides).result()


def peak_and_seconds(data_dir: Path, kept: bool, *overrides: str) -> tuple[float, float]:
    """Peak memory of this process in GB, and CPU seconds of a step: forward, loss and backward pass of a batch.

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
            start = time.process_time()
            module.loss.combined(module.loss.parts(module(batch), batch.bag_labels, batch.slice_labels)).backward()
    seconds = time.process_time() - start
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, seconds
