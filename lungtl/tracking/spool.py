"""What a run could not tell MLflow: a file of entries in the data folder, until they can be sent.

A process that keeps entries there holds the file's lock until it ends, so that nobody sends a file that grows.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from lungtl.settings.errors import LungtlError
from lungtl.tracking import entries
from lungtl.tracking.backend import reason, store_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
FOLDER = "unsynced"
WAIT = 60.0  # seconds that a run waits for a process that is sending its entries


class Spool:
    """The entries of one run that MLflow does not have yet, oldest first.

    Args:
        data_dir: the data folder.
        run_id: the run's id in MLflow.
    """

    def __init__(self, data_dir: Path, run_id: str) -> None:
        self.run_id = run_id
        self.path = data_dir / FOLDER / f"{run_id}.jsonl"
        self._lock = FileLock(self.path.with_suffix(".lock"), thread_local=False)

    def take(self, timeout: float = 0) -> None:
        """Keep other processes off until `leave`; raises LungtlError when one has it for so many seconds."""
        if self._lock.is_locked:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=timeout)
        except Timeout as error:
            raise LungtlError(f"run {self.run_id} is in use by another process; wait until that has ended") from error

    def leave(self) -> None:
        """Let other processes have it."""
        if self._lock.is_locked and not self.holds_some():
            Path(self._lock.lock_file).unlink()
        self._lock.release()

    def holds_some(self) -> bool:
        """True while something waits to be sent."""
        return self.path.is_file()

    def append(self, entry: entries.Entry) -> None:
        """Keep an entry."""
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def read(self) -> list[entries.Entry]:
        """What is kept; a last line that was cut off with its process is no entry."""
        if not self.holds_some():
            return []
        whole, _, _ = self.path.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def send(self, client: MlflowClient) -> int:
        """Send everything, oldest first, and forget it; when that is cut off, all of it is sent again the next time.

        Returns:
            How many entries.

        Raises:
            LungtlError: MLflow cannot be reached or refuses an entry; nothing is forgotten.
        """
        kept = self.read()
        for entry in kept:
            if entry["kind"] == "artifacts" and not Path(entry["path"]).exists():
                log.warning("%s is gone, so run %s stays without it", entry["path"], self.run_id)
                continue
            try:
                entries.send(client, self.run_id, entry)
            except store_errors() as error:
                raise LungtlError(
                    f"MLflow did not take the {entry['kind']} of run {self.run_id} ({reason(error)}); mend that, give "
                    f"the run's own tracking.uri=, or delete {self.path} to give it up"
                ) from error
        self.path.unlink(missing_ok=True)
        return len(kept)


def unsynced(data_dir: Path) -> list[Spool]:
    """The runs of a data folder that MLflow does not wholly have."""
    return [Spool(data_dir, path.stem) for path in sorted((data_dir / FOLDER).glob("*.jsonl"))]


def send_all(spool: Spool, client: MlflowClient) -> int:
    """Send what a run left; returns how many entries, raises LungtlError as `Spool.take` and `Spool.send` do."""
    spool.take()
    try:
        return spool.send(client)
    finally:
        spool.leave()
