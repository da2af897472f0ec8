"""`unsent.json`: marks the folder of a run, evaluation or sweep that MLflow does not have in full.

It holds only what no other file of the folder does; everything else is sent again from those files.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from lungtl.data.store.files import whole_file
from lungtl.runs.folder import read_json

FILE = "unsent.json"
SAME = 2.0  # seconds; the system rounds the time of its start
FOLDERS = ("runs/*", "evaluations/*", "sweeps/*", "sweeps/*/*")


@dataclass(frozen=True)
class Unsent:
    """What `unsent.json` holds.

    Attributes:
        mlflow_run_id: the run.
        tracking_uri: of its store, any password replaced by `***`; None: the SQLite store of the data folder.
        experiment: that contains the run.
        host: of the process that lost MLflow.
        pid: of that process; None once it no longer sends anything.
        started: when that process did, seconds since the machine was started; process ids are used again.
        tags: set after MLflow was lost.
        status: FINISHED, FAILED or KILLED; None until the run ends.
        end_time: milliseconds since 1970.
    """

    mlflow_run_id: str
    tracking_uri: str | None
    experiment: str
    host: str = field(default_factory=socket.gethostname)
    pid: int | None = field(default_factory=os.getpid)
    started: float = field(default_factory=lambda: _started(os.getpid()))
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str | None = None
    end_time: int | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether the process belongs to another machine, where it may still run."""
        return self.pid is not None and self.host != socket.gethostname()

    @property
    def running(self) -> bool:
        """Whether the process still runs on this machine."""
        if self.pid is None or self.elsewhere:
            return False
        try:
            return abs(_started(self.pid) - self.started) < SAME
        except psutil.NoSuchProcess:
            return False


def _started(pid: int) -> float:
    """When a process was started, in seconds since the machine was: does not change when the clock is set."""
    boot = psutil.boot_time()  # first: psutil adds what it returned last to the time since then
    return psutil.Process(pid).create_time() - boot


def write_unsent(folder: Path, unsent: Unsent) -> None:
    """Write the marker atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / FILE, folder) as file:
        file.write(json.dumps(asdict(unsent), indent=2).encode())


def read_unsent(folder: Path) -> Unsent | None:
    """The marker of a folder; None if MLflow has everything."""
    path = folder / FILE
    return Unsent(**read_json(path)) if path.is_file() else None


def remove_own_mark(folder: Path, own: Unsent) -> None:
    """Remove the mark of a run that MLflow has in full, unless another process has marked the folder since."""
    found = read_unsent(folder)
    if found is not None and (found.host, found.pid) == (own.host, own.pid):
        (folder / FILE).unlink(missing_ok=True)


def find_unsent(data_dir: Path) -> list[Path]:
    """The marked folders of a data folder."""
    return sorted(path.parent for folders in FOLDERS for path in data_dir.glob(f"{folders}/{FILE}"))
