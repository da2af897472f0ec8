"""Where a run is recorded: in MLflow, or nowhere but in its folder."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl.runs.folder import place_of_data
from lungtl.settings.credentials import hide_password
from lungtl.settings.typed import assigned, typed
from lungtl.tracking.backend import experiment_id, open_client, readable_errors, reason, store_errors
from lungtl.tracking.mlflow_run import MlflowRun, Tracker, create_run
from lungtl.tracking.unsent import FILE, Unsent, is_recorded_now, read_unsent, try_lock, write_unsent

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lungtl.settings.sections import TrackingConfig

log = logging.getLogger(__name__)


Publish = Callable[[Tracker, Path], None]
"""Records a folder's files."""


class SentLater(Tracker):
    """tracking=none for a run that MLflow has a part of: marks its folder, so that `lungtl.sync` can send the rest.

    Args:
        folder: of the run.
        run_id: in MLflow.
        uri: of its store; None: that of the data folder.
        experiment: that contains the run.
    """

    def __init__(self, folder: Path, run_id: str, uri: str | None, experiment: str) -> None:
        self.run_id, self._folder, self._lock = run_id, folder, try_lock(folder)
        earlier = read_unsent(folder)
        fresh = Unsent(run_id, None if uri is None else hide_password(uri), experiment)
        self._unsent = (
            fresh if earlier is None else replace(fresh, tags=earlier.tags, tracking_uri=earlier.tracking_uri)
        )
        write_unsent(folder, self._unsent)

    def tags(self, values: Mapping[str, str]) -> None:
        self._unsent = replace(self._unsent, tags={**self._unsent.tags, **values})
        write_unsent(self._folder, self._unsent)

    def close(self, status: str) -> None:
        write_unsent(self._folder, replace(self._unsent, status=status, end_time=int(time.time() * 1000)))
        self._lock.release()
        log.warning(
            "MLflow lacks this part of the run because of tracking=none; to send it: %s",
            typed("sync", assigned("run", self._folder)),
        )


class MlflowTracker(Tracker):
    """A run in MLflow that survives the loss of MLflow.

    While the run proceeds, its folder is marked with `unsent.json`, which a kill leaves behind: a resumed run, or
    `lungtl.sync`, then sends what is missing and ends the MLflow run. If MLflow goes away, the run continues and
    nothing more is sent; at the end everything is sent again from the folder, once; if that fails, `lungtl.sync` does.

    Args:
        config: store and experiment.
        data_dir: contains a local store.
        name: of a new run.
        folder: of the run.
        publish: records the folder's files, to send again what MLflow missed.
        run_id: of an earlier run to resume.

    Raises:
        LungtlError: MLflow cannot be reached, or refuses what an earlier part of the run could not send.
    """

    run_id: str

    def __init__(
        self,
        config: TrackingConfig,
        data_dir: Path,
        name: str,
        folder: Path,
        publish: Publish,
        run_id: str | None = None,
    ) -> None:
        self.client = open_client(config.uri, data_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = try_lock(folder)
        with readable_errors("MLflow cannot open the run"):
            if run_id is None:
                experiment = experiment_id(self.client, config.experiment, config.uri, data_dir)
                self.run_id = create_run(self.client, experiment, name)
            else:
                if self._lock.is_locked:
                    send_unsent(self.client, folder, publish)
                self.client.update_run(run_id, status="RUNNING")
                self.run_id = run_id
        self._run = MlflowRun(self.client, self.run_id, resumed=run_id is not None)
        self._folder, self._publish = folder, publish
        uri = None if config.uri is None else hide_password(config.uri)
        self._lost, self._unsent = False, Unsent(self.run_id, uri, config.experiment)
        below = folder.is_relative_to(data_dir)  # where sync looks by itself
        where = [] if below else [assigned("run", folder)]
        self._mark()
        self._sync_command = typed("sync", *where, *place_of_data(data_dir))

    def params(self, values: Mapping[str, Any]) -> None:
        self._send(lambda: self._run.params(values))

    def tags(self, values: Mapping[str, str]) -> None:
        self._send(lambda: self._run.tags(values))
        if self._lost:
            self._mark(tags={**self._unsent.tags, **values})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self._send(lambda: self._run.metrics(values, step))

    def epoch(self, values: Mapping[str, float], epoch: int) -> None:
        self._send(lambda: self._run.epoch(values, epoch))

    def dataset(self, name: str, fingerprint: str, context: str) -> None:
        self._send(lambda: self._run.dataset(name, fingerprint, context))

    def describe(self, result: str, text: str) -> None:
        self._send(lambda: self._run.describe(result, text))

    def artifacts(self, path: Path, under: str | None = None) -> None:
        path = path.resolve(strict=True)  # a missing file is the caller's error, not MLflow's
        self._send(lambda: self._run.artifacts(path, under))

    def close(self, status: str) -> None:
        self._send(lambda: self._run.close(status))
        alone = self._lock.is_locked
        self._lock.release()
        if not self._lost:
            if alone or not is_recorded_now(self._folder):
                (self._folder / FILE).unlink(missing_ok=True)
            return
        self._mark(status=status, end_time=int(time.time() * 1000))
        try:
            send_unsent(self.client, self._folder, self._publish)
        except store_errors() as error:
            log.warning(
                "MLflow is still unreachable (%s) and lacks a part of this run; once it is back, run: %s",
                reason(error), self._sync_command,
            )  # fmt: skip
        else:
            log.info("MLflow is back and has the whole run")

    def _send(self, send: Callable[[], None]) -> None:
        """Send something, unless MLflow was lost before."""
        if self._lost:
            return
        try:
            send()
        except store_errors() as error:
            log.warning("MLflow is unreachable (%s): the run continues, and is sent again when it ends", reason(error))
            self._lost = True
            self._mark()

    def _mark(self, **changes: Any) -> None:
        """Mark the folder as not sent in full."""
        self._unsent = replace(self._unsent, **changes)
        write_unsent(self._folder, self._unsent)


def send_unsent(client: MlflowClient, folder: Path, publish: Publish) -> None:
    """Send what MLflow is missing of a marked folder, end its run there, and remove the mark; may be repeated.

    Raises:
        MlflowException: or another of `backend.store_errors()`; the mark stays.
    """
    unsent = read_unsent(folder)
    if unsent is None:
        return
    run = MlflowRun(client, unsent.mlflow_run_id, resumed=True)
    publish(run, folder)
    if unsent.tags:
        run.tags(unsent.tags)
    run.close(unsent.status or "KILLED", unsent.end_time)  # a process that is still sending has not come here
    (folder / FILE).unlink()


@contextmanager
def tracked(tracker: Tracker) -> Iterator[Tracker]:
    """End the run when the block does: FINISHED, KILLED if the user stopped it, FAILED otherwise."""
    try:
        yield tracker
    except BaseException as error:
        tracker.tags({"lungtl.error": hide_password(str(error))[:500]})
        tracker.close("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    tracker.close("FINISHED")
