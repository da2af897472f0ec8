"""`python -m tests.sweeps.search.app`: the train command, its config and its sweeps around a task that takes no time.

Each start of the task is a line in `CALLS`. What it achieves is known: the distance of log10(optimizer.lr) from -3, and
a hundredth for each epoch that is missing.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

from lungtl.settings import command_line
from lungtl.settings.schema import TrainConfig
from lungtl.sweeps.report import write

CALLS = "calls"
"""In data_dir: lr, width, weight decay, seed, threads, process of each start."""
KILLED_AT, BROKEN, THREADS = "APP_KILLED_AT", "APP_BROKEN", "APP_THREADS"
"""In the environment: the number of the start at which the process dies; a width that fails; count threads if set."""


def environment() -> dict[str, str]:
    """Without settings of the user's, and with as many threads as there are."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LUNGTL_") and "THREADS" not in key}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[3])}


def start(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """A sweep as a command of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tests.sweeps.search.app", "-m", "tracking=none", *arguments],
        capture_output=True, text=True, cwd=cwd, timeout=120, check=False, env={**environment(), **variables},
    )  # fmt: skip


def task(config: TrainConfig) -> float:
    threads = 0
    if THREADS in os.environ:
        import torch

        threads = torch.get_num_threads()
    calls = config.data_dir / CALLS
    chosen = (config.optimizer.lr, config.head.width, config.optimizer.weight_decay, config.seed)
    with calls.open("a") as file:
        file.write(" ".join(map(str, (*chosen, threads, os.getpid()))) + "\n")
    if os.environ.get(KILLED_AT) == str(len(calls.read_text().splitlines())):
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get(BROKEN) == str(config.head.width):
        raise ValueError(f"width {config.head.width}")
    return _epochs(config)


def _epochs(config: TrainConfig) -> float:
    """Train as Lightning would: tell the study each epoch, stop where it says so."""
    from hydra.core.hydra_config import HydraConfig

    from lungtl.sweeps.search.hopeless import is_hopeless
    from lungtl.sweeps.search.names import PRUNED, TRIAL

    folder = Path(HydraConfig.get().runtime.output_dir)
    epochs = config.trainer.max_epochs
    for epoch in range(epochs if TRIAL in os.environ else 0):
        value = _achieved(config.optimizer.lr, epoch + 1)
        if is_hopeless(folder.parent, int(os.environ[TRIAL]), value, epoch):
            (folder / PRUNED).write_text("{}")
            return value
    return _achieved(config.optimizer.lr, epochs)


def _achieved(lr: float, epochs: int) -> float:
    return abs(math.log10(lr) + 3) + 0.01 * (100 - epochs)


def _nothing(folder: Path, out: Path | None = None, title: str | None = None) -> list[Path]:
    """These runs leave nothing to report."""
    return []


if __name__ == "__main__":
    write.write_report = _nothing
    command_line.main("train", TrainConfig, task)
