"""The state of each run of a sweep: `status.json` in the run's folder, and a lock that its process holds.

The operating system releases the lock when the process ends, however it ends: a run whose status is "running" and
whose lock is free was killed.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import Timeout

from lungtl.data.store.files import whole_file
from lungtl.runs.folder import read_json, run_lock
from lungtl.settings.errors import LungtlError

log = logging.getLogger(__name__)
STATUS = "status.json"
Status = Literal["new", "running", "killed", "finished", "failed"]


@dataclass(frozen=True)
class State:
    """The content of status.json."""

    state: Literal["running", "finished", "failed"]  # outcome of the last attempt; "running" until it ends by itself
    number: int  # of the job in the call that started it
    overrides: tuple[str, ...]  # of its command line, without Hydra's own
    monitor: str  # the validation metric that selects the epoch
    value: float | None = None  # of that metric in the best epoch, when finished
    error: str | None = None  # why it failed or could not start, on one line
    host: str = ""  # machine of the last attempt
    pid: int = 0  # process of the last attempt
    call: str = ""  # of the sweep that made the last attempt, as parent.json names it
    checkpoint: int = 0  # modification time in ns of the last checkpoint when that attempt started; 0: none
    attempts: int = 1  # consecutive attempts that ended without an outcome, including this one

    @property
    def from_this_process(self) -> bool:
        """Whether this process made the last attempt."""
        return (self.host, self.pid) == (socket.gethostname(), os.getpid())


def read_state(folder: Path) -> State | None:
    """The state of a run; None if it never started, or with a warning if its file is damaged: it is then resumed."""
    path = folder / STATUS
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        return State(**{**content, "overrides": tuple(content["overrides"])})
    except (LungtlError, LookupError, TypeError) as error:
        log.warning("%s: its state is unknown (%s)", folder, error)
        return None


def write_state(folder: Path, state: State) -> None:
    """Write status.json atomically, with this process as the last attempt's."""
    state = replace(state, host=socket.gethostname(), pid=os.getpid())
    with whole_file(folder / STATUS, folder) as file:
        file.write(json.dumps(asdict(state), indent=2).encode())


def status_of(folder: Path) -> Status:
    """The status of a run, from its state and its lock."""
    state = read_state(folder)
    if state is None:
        return "new"
    if state.state != "running":
        return state.state
    try:
        with run_lock(folder).acquire(timeout=0):
            return "killed"
    except Timeout:
        return "running"


def read_states(sweep: Path) -> dict[Path, State]:
    """Folder -> state of each run that has started, ordered by job number."""
    states = {path.parent: read_state(path.parent) for path in sweep.glob(f"*/{STATUS}")}
    started = {folder: state for folder, state in states.items() if state is not None}
    return dict(sorted(started.items(), key=lambda item: (item[1].number, item[0].name)))
