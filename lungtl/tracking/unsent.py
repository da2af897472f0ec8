"""`unsent.json`: marks the folder of a run, evaluation or sweep that MLflow does not have in full.

It holds only what no other file of the folder does; everything else is sent again from those files. The process that
records the folder holds a lock next to it, which the system releases however the process ends.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from filelock import FileLock, Timeout

from lungtl.data.store.files import whole_file
from lungtl.runs.folder import read_json

FILE = "unsent.json"
FOLDERS = ("runs/*", "evaluations/*", "sweeps/*", "sweeps/*/*")


@dataclass(frozen=True)
class Unsent:
    """What `unsent.json` holds.

    Attributes:
        mlflow_run_id: the run.
        tracking_uri: of its store, any password replaced by `***`; None: the SQLite store of the data folder.
        experiment: that contains the run.
        tags: set after MLflow was lost.
        status: FINISHED, FAILED or KILLED; None until the run ends.
        end_time: milliseconds since 1970.
    """

    mlflow_run_id: str
    tracking_uri: str | None
    experiment: str
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str | None = None
    end_time: int | None = None


def try_lock(folder: Path) -> FileLock:
    """The lock of the process that records a folder; not held if there is one, such as another call of a sweep."""
    lock = FileLock(folder / "unsent.lock")
    with suppress(Timeout):
        lock.acquire(timeout=0)
    return lock


def is_recorded_now(folder: Path) -> bool:
    """Whether a process still records a folder, and will send the rest itself."""
    lock = try_lock(folder)
    free = lock.is_locked
    lock.release()
    return not free


def write_unsent(folder: Path, unsent: Unsent) -> None:
    """Write the marker atomically."""
    with whole_file(folder / FILE, folder) as file:
        file.write(json.dumps(asdict(unsent), indent=2).encode())


def read_unsent(folder: Path) -> Unsent | None:
    """The marker of a folder; None if MLflow has everything."""
    path = folder / FILE
    if not path.is_file():
        return None
    content, known = read_json(path), {each.name for each in fields(Unsent)}
    return Unsent(**{key: value for key, value in content.items() if key in known})


def find_unsent(data_dir: Path) -> list[Path]:
    """The marked folders of a data folder."""
    return sorted(path.parent for folders in FOLDERS for path in data_dir.glob(f"{folders}/{FILE}"))
