"""`python -m tests.sweeps.search.app`: the train command, its config and its sweeps around a task that takes no time.

Each start of the task is a line in `CALLS`. Its validation loss is |log10(optimizer.lr) + 3|, plus 0.01 for each epoch
short of 100.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from lungtl.settings import command_line
from lungtl.settings.schema import TrainConfig
from lungtl.sweeps import datasets, jobs, launch
from tests.forked import Forks

CALLS = "calls"
"""In data_dir: lr, width, weight decay, seed, threads, process of each start."""
KILLED_AT, BROKEN, THREADS = "APP_KILLED_AT", "APP_BROKEN", "APP_THREADS"
"""Environment variables: the number of the start at which the process is killed; a width that fails; count threads."""


def environment() -> dict[str, str]:
    """Without the user's settings and limits on threads."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("LUNGTL_") and "THREADS" not in key}
    return {**kept, "PYTHONPATH": str(Path(__file__).parents[3])}


def run(forks: Forks, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a sweep as a command."""
    module = "tests.sweeps.search.app"
    return forks.command(module, "-m", "tracking=none", *arguments, folder=folder, environment=variables)


def task(config: TrainConfig) -> float:
    threads = "0"
    if THREADS in os.environ:
        assert "torch" not in sys.modules, "torch reads OMP_NUM_THREADS when it is imported"
        threads = os.environ.get("OMP_NUM_THREADS", "all")
    calls = config.data_dir / CALLS
    lr, weight_decay = float(config.optimizer["lr"]), float(config.optimizer["weight_decay"])
    chosen = (lr, config.head.width, weight_decay, config.seed)
    with calls.open("a") as file:
        file.write(" ".join(map(str, (*chosen, threads, os.getpid()))) + "\n")
    if os.environ.get(KILLED_AT) == str(len(calls.read_text().splitlines())):
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get(BROKEN) == str(config.head.width):
        raise ValueError(f"width {config.head.width}")
    return _epochs(config)


def _epochs(config: TrainConfig) -> float:
    """Train as Lightning would: report each epoch to the study, stop if it says so."""
    from hydra.core.hydra_config import HydraConfig

    from lungtl.runs.folder import PRUNED
    from lungtl.sweeps.search import TRIAL
    from lungtl.sweeps.search.study import should_prune

    folder = Path(HydraConfig.get().runtime.output_dir)
    epochs = config.trainer.max_epochs
    for epoch in range(epochs if TRIAL in os.environ else 0):
        value = _loss(float(config.optimizer["lr"]), epoch + 1)
        if should_prune(folder.parent, int(os.environ[TRIAL]), value, epoch):
            (folder / PRUNED).write_text("{}")
            return value
    return _loss(float(config.optimizer["lr"]), epochs)


def _loss(lr: float, epochs: int) -> float:
    return abs(math.log10(lr) + 3) + 0.01 * (100 - epochs)


def _no_report(sweep: Path) -> None:
    """These runs have no results."""


def _no_dataset(config: Any) -> str:
    """These runs read no data."""
    return "none"


if __name__ == "__main__":
    launch._write_report = _no_report
    datasets._fingerprint = _no_dataset
    command_line.main("train", TrainConfig, task, jobs=jobs)
