"""One child of a sweep: started, gone on with or left alone, as its folder says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from lungtl.settings.errors import LungtlError, Unreachable
from lungtl.sweeps.parent import PARENT
from lungtl.sweeps.state import STATUS, State, child_lock, read_state, write_state

log = logging.getLogger(__name__)
MOST_ATTEMPTS = 5
"""In a row that end with their process; a child that takes its process with it must not block a sweep for ever."""
ONE_AT_A_TIME = "again.lock"
"""In the sweep's folder. Under joblib a process that ends takes those beside it with it; memory may have been short."""
GRACE = 10.0  # seconds in which the helpers of a killed process end
Work = Callable[[], float | None]


def run_child(folder: Path, started: State, work: Work, *, retry: bool) -> float | None:
    """Do a child's work unless that is done, or failed and not to be tried again; prints its folder when it is done.

    Children whose process ended without a word or a new checkpoint are tried again one at a time.

    An error is written down and logged, and does not leave this function: no launcher or sweeper may stop the other
    children because of it.

    Args:
        folder: of the child, the same in each call of the sweep.
        started: what its status.json says from now on.
        work: gives the monitored value.
        retry: a child that failed in an earlier call goes on where it stopped.

    Returns:
        The monitored value; None where there is none.
    """
    try:
        with child_lock(folder).acquire(timeout=GRACE):
            earlier = read_state(folder)
            retry = retry and not _tried(folder)
            if earlier is not None and earlier.state == "finished":
                print(folder)
                return earlier.value
            if earlier is not None and earlier.state == "failed" and not retry:
                return None
            if earlier is not None and earlier.state == "running":  # it was killed: its lock was free
                if earlier.attempts >= MOST_ATTEMPTS and not (retry or _got_further(folder)):
                    error = f"its process ended {earlier.attempts} times without a word (killed, or out of memory)"
                    write_state(folder, replace(earlier, state="failed", error=error))
                    log.error("this job failed, the others go on: %s", error)
                    return None
                if not _got_further(folder):
                    started = replace(started, attempts=earlier.attempts + 1)
            again = started.attempts > 1
            with FileLock(folder.parent / ONE_AT_A_TIME) if again else nullcontext():
                return attempt(folder, started, work)
    except Timeout:
        log.warning("left to the process that runs it: %s", folder)
    except Unreachable as error:
        log.error("this job is left for the next call, the others go on: %s", error)
    except LungtlError as error:
        log.error("this job failed, the others go on: %s", error)
    except Exception:
        log.exception("this job failed, the others go on")
    return None


def resume_child(folder: Path, work: Work) -> float | None:
    """Do the work of a child that the user named with `resume=`, whatever its state; errors are raised.

    Raises:
        LungtlError: another process runs it.
    """
    state = read_state(folder)
    assert state is not None
    try:
        with child_lock(folder).acquire(timeout=GRACE):
            return attempt(folder, replace(state, state="running", value=None, error=None), work)
    except Timeout as error:
        raise LungtlError(f"{folder} runs on {state.host} as process {state.pid}; wait for it or stop it") from error


def attempt(folder: Path, started: State, work: Work) -> float | None:
    """Do a child's work and write down how it went; its lock is held by the caller.

    A child that does not reach MLflow has not failed: it stands as one that was killed, and the next call goes on.
    """
    write_state(folder, started)
    try:
        value = work()
    except Unreachable as error:
        write_state(folder, replace(started, attempts=started.attempts - 1, error=_line(error)))
        raise
    except Exception as error:
        write_state(folder, replace(started, state="failed", error=_line(error)))
        raise
    write_state(folder, replace(started, state="finished", value=value))
    return value


def _tried(folder: Path) -> bool:
    """Whether an attempt began in this call, which may have launched the children more than once.

    A call begins with parent.json.
    """
    status, parent = folder / STATUS, folder.parent / PARENT
    return status.is_file() and parent.is_file() and status.stat().st_mtime_ns > parent.stat().st_mtime_ns


def _got_further(folder: Path) -> bool:
    """Whether the attempt that was killed has left a checkpoint: status.json is as old as its start."""
    checkpoint = folder / "checkpoints" / "last.ckpt"
    return checkpoint.is_file() and checkpoint.stat().st_mtime > (folder / STATUS).stat().st_mtime


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, LungtlError) else f"{type(error).__name__}: {text}"[:500]
