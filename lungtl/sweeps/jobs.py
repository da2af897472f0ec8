"""What the train command asks of a sweep: to run a job, to restart the launcher, to end. Imports nothing heavy.

`lungtl.settings.command_line.main(..., jobs=)` takes this module.
"""

from __future__ import annotations

import logging
import secrets
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lungtl.runs.folder import run_lock
from lungtl.settings.errors import LungtlError, Unreachable
from lungtl.sweeps.launch import end, relaunch
from lungtl.sweeps.parent import read_parent
from lungtl.sweeps.state import State, read_state, write_state

__all__ = ["end", "relaunch", "run_job"]

log = logging.getLogger(__name__)
MAX_CRASHES = 5
"""Consecutive crashes after which a run counts as failed: one that kills its process must not block the sweep."""
RETRY_LOCK = "again.lock"
"""In the sweep's folder: crashed runs are retried one at a time, since memory may have been short."""
LOCK_TIMEOUT = 10.0  # seconds in which the helper processes of a killed run end
Work = Callable[[], float | None]


def run_job(folder: Path, composed: DictConfig, work: Work, single: bool) -> float | None:
    """Run a job as its folder's state requires: start, skip, resume or retry it; returns its monitored value, if any.

    Without `-m` (`single`), a run named with `resume=` is resumed whatever its state, and errors are raised.
    """
    if composed.dry_run:
        return work()
    if single:
        return run_alone(folder, work)

    hydra = HydraConfig.get()
    started = State("running", hydra.job.num, tuple(hydra.overrides.task), composed.trainer.monitor)
    return run_in_sweep(folder, started, work, retry=composed.sweep.retry)


def run_in_sweep(folder: Path, started: State, work: Work, *, retry: bool) -> float | None:
    """Run one of a sweep's jobs, unless it has finished or failed; print its folder if it had finished.

    Errors are recorded and logged but not raised: no launcher or sweeper may stop the other runs because of them.

    Args:
        folder: of the run, the same in each call of the sweep.
        started: its state from now on.
        work: returns the monitored value.
        retry: resume the run if it failed in an earlier call.
    """
    try:
        with run_lock(folder).acquire(timeout=LOCK_TIMEOUT):
            earlier = read_state(folder)
            retry = retry and not (earlier is not None and earlier.call == _call(folder))
            if earlier is not None and earlier.state == "finished":
                if not sys.stdout.isatty():  # as in lungtl.train
                    print(folder)
                return earlier.value
            if earlier is not None and earlier.state == "failed" and not retry:
                return None
            if earlier is not None and earlier.state == "running":  # it was killed, since its lock was free
                progressed = _checkpoint(folder) not in (0, earlier.checkpoint)
                if earlier.attempts >= MAX_CRASHES and not (retry or progressed):
                    error = f"crashed {earlier.attempts} times in a row with no error message (killed or out of memory)"
                    write_state(folder, replace(earlier, state="failed", error=error))
                    raise LungtlError(error)
                if not progressed:
                    started = replace(started, attempts=earlier.attempts + 1)
            with FileLock(folder.parent / RETRY_LOCK) if started.attempts > 1 else nullcontext():
                return _attempt(folder, started, work)
    except Timeout:
        log.warning("already running in another process: %s", folder)
    except Unreachable as error:
        log.error("this run waits for the next call of the sweep; the other runs continue: %s", error)
    except LungtlError as error:
        log.error("this run failed; the other runs continue: %s", error)
    except Exception:
        log.exception("this run failed; the other runs continue")
    return None


def run_alone(folder: Path, work: Work) -> float | None:
    """Start a run, or resume one that the user named with `resume=`; errors are raised.

    Raises:
        LungtlError: another process runs it.
    """
    state = read_state(folder)
    try:
        with run_lock(folder).acquire(timeout=LOCK_TIMEOUT):
            if state is None:
                return work()
            return _attempt(folder, replace(state, state="running", value=None, error=None), work)
    except Timeout as error:
        where = "" if state is None else f" on {state.host} as process {state.pid}"
        raise LungtlError(f"{folder} is running{where}; wait for it or stop it") from error


def _attempt(folder: Path, started: State, work: Work) -> float | None:
    """Do the work and record its outcome; the caller holds the run's lock.

    A run that cannot reach MLflow has not failed: its state stays that of a killed run, and the next call resumes it.
    """
    started = replace(started, call=_call(folder), checkpoint=_checkpoint(folder))
    write_state(folder, started)
    try:
        value = work()
    except Unreachable as error:
        write_state(folder, replace(started, attempts=started.attempts - 1, error=_one_line(error)))
        raise
    except Exception as error:
        write_state(folder, replace(started, state="failed", error=_one_line(error)))
        raise
    write_state(folder, replace(started, state="finished", value=value))
    return value


def _call(folder: Path) -> str:
    """The current call of a run's sweep, which may start its launcher repeatedly; unique if the sweep has no name."""
    parent = read_parent(folder.parent) or {}
    return str(parent.get("call") or secrets.token_hex(4))


def _checkpoint(folder: Path) -> int:
    """The modification time of a run's last checkpoint in ns, to see whether there is a new one; 0: none."""
    path = folder / "checkpoints" / "last.ckpt"
    return path.stat().st_mtime_ns if path.is_file() else 0


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, LungtlError) else f"{type(error).__name__}: {text}"[:500]
