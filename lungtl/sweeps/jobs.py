"""What the train command does around the jobs of a sweep (the branch `sweeps` has the real one)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run_job(folder: Path, composed: DictConfig, work: Callable[[], float | None], single: bool) -> float | None:
    """Do a job's work as the state of its folder asks."""
    from hydra.core.hydra_config import HydraConfig

    from lungtl.sweeps.child import resume_child, run_child
    from lungtl.sweeps.state import STATUS, State

    if composed.dry_run:
        return work()
    if single:
        return resume_child(folder, work) if (folder / STATUS).is_file() else work()
    hydra = HydraConfig.get()
    started = State("running", hydra.job.num, tuple(hydra.overrides.task), composed.trainer.monitor)
    return run_child(folder, started, work, retry=composed.sweep.retry)


def relaunch(error: Exception) -> bool:
    """True if the launcher should be started once more."""
    from lungtl.sweeps.launched import launch_again

    return launch_again(error)


def end(status: str) -> bool:
    """Close the sweep; True if there was one."""
    from lungtl.sweeps.launched import end_sweep

    return end_sweep(status)
