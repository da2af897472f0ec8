"""How far each child of a sweep is: `status.json` in its folder, and a lock that its process holds.

The lock falls with the process, however it ends: a child that says "running" and is not locked was killed.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from lungtl.data.store.files import whole_file

STATUS, LOCK = "status.json", "status.lock"
Standing = Literal["new", "running", "killed", "finished", "failed"]


@dataclass(frozen=True)
class State:
    """What status.json says.

    Attributes:
        state: how the last attempt went; "running" until it ended by itself.
        number: of the job in the call that started it.
        overrides: of its command line, without those of Hydra.
        monitor: the validation metric that chooses the epoch.
        value: of that metric in the best epoch, when finished.
        error: why it failed, or could not start, in a line.
        host: where the last attempt ran.
        pid: of its process there.
        attempts: in a row that did not end by themselves, this one included.
    """

    state: Literal["running", "finished", "failed"]
    number: int
    overrides: tuple[str, ...]
    monitor: str
    value: float | None = None
    error: str | None = None
    host: str = ""
    pid: int = 0
    attempts: int = 1

    @property
    def own(self) -> bool:
        """Whether the last attempt was this process's."""
        return (self.host, self.pid) == (socket.gethostname(), os.getpid())


def read_state(folder: Path) -> State | None:
    """What a child's folder says; None where none began."""
    path = folder / STATUS
    if not path.is_file():
        return None
    content = json.loads(path.read_text())
    return State(**{**content, "overrides": tuple(content["overrides"])})


def write_state(folder: Path, state: State) -> None:
    """Write status.json, whole, as of this process."""
    state = replace(state, host=socket.gethostname(), pid=os.getpid())
    with whole_file(folder / STATUS, folder) as file:
        file.write(json.dumps(asdict(state), indent=2).encode())


def child_lock(folder: Path) -> FileLock:
    """The lock that a child's process holds."""
    return FileLock(folder / LOCK)


def standing(folder: Path) -> Standing:
    """What is to be said of a child now."""
    state = read_state(folder)
    if state is None:
        return "new"
    if state.state != "running":
        return state.state
    try:
        with child_lock(folder).acquire(timeout=0):
            return "killed"
    except Timeout:
        return "running"


def children(sweep: Path) -> list[Path]:
    """The folders of the children that began, by their number."""
    folders = [path.parent for path in sweep.glob(f"*/{STATUS}")]
    states = {folder: read_state(folder) for folder in folders}
    return sorted(folders, key=lambda folder: (state.number if (state := states[folder]) else 0, folder.name))
