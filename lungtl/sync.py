"""`python -m lungtl.sync`: send MLflow what it missed of runs and sweeps, and end those that were killed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lungtl.evaluation.formatting import plural
from lungtl.runs.folder import SPLIT, find_run
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.schema import SyncConfig

if TYPE_CHECKING:
    from lungtl.tracking.tracker import Publish

log = logging.getLogger(__name__)


class StillRunning(LungtlError):
    """A run that has not ended sends the rest itself."""


def run(config: SyncConfig) -> None:
    """Send every marked folder, or that of one run; prints a line for each.

    Raises:
        UsageError: there is nothing to send to.
        LungtlError: a run still runs, or could not be sent.
    """
    from lungtl.tracking.unsent import find_unsent

    if not config.tracking.enabled:
        raise UsageError("tracking=none: there is no MLflow to send to; omit it")
    folders = find_unsent(config.data_dir) if config.run is None else [_folder_of(config.run, config.data_dir)]
    failed = waiting = 0
    for folder in folders:
        try:
            send(folder, config)
        except StillRunning as error:
            if config.run is not None:
                raise
            waiting += 1
            log.info("%s: %s", folder, error)
        except LungtlError as error:
            failed += 1
            log.warning("%s: %s", folder, error)
    if failed:
        raise LungtlError(f"{failed} of {plural(len(folders), 'run')} not sent; see the messages above, then retry")
    log.info("MLflow has everything" + (f" but {plural(waiting, 'run')} that did not end" if waiting else ""))


def send(folder: Path, config: SyncConfig) -> None:
    """Send what MLflow is missing of a folder, and print its run's id and the folder.

    Raises:
        StillRunning: its process still runs.
        LungtlError: MLflow is unreachable or refuses something.
    """
    from lungtl.tracking.backend import open_client, readable_errors
    from lungtl.tracking.tracker import send_unsent
    from lungtl.tracking.unsent import is_recorded_now, read_unsent

    unsent = read_unsent(folder)
    if unsent is None:
        return
    if is_recorded_now(folder):
        raise StillRunning("a process still runs and will send it itself; wait for it, or stop it")
    uri = config.tracking.uri or unsent.tracking_uri
    client = open_client(uri, config.data_dir)
    with readable_errors(f"MLflow does not accept run {unsent.mlflow_run_id}"):
        send_unsent(client, folder, _publisher(folder))
    print(unsent.mlflow_run_id, folder)


def _folder_of(reference: str, data_dir: Path) -> Path:
    """The folder that `run=` names: of a run, an evaluation or a sweep."""
    from lungtl.tracking.unsent import FILE

    folder = Path(reference).expanduser()
    return folder.resolve() if (folder / FILE).is_file() else find_run(reference, data_dir)


def _publisher(folder: Path) -> Publish:
    """Records a folder's files, whatever it is of."""
    from lungtl.sweeps.parent import PARENT, publish_sweep
    from lungtl.tracking import publish

    if (folder / PARENT).is_file():
        return publish_sweep
    return publish.run if (folder / SPLIT).is_file() else publish.evaluation


if __name__ == "__main__":
    command_line.main("sync", SyncConfig, run)
