"""One run's record in MLflow."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from lungtl import __version__
from lungtl.runs.environment import own_commit
from lungtl.settings.errors import LungtlError
from lungtl.tracking import entries
from lungtl.tracking.backend import experiment_id, open_client, reason, shown, store_errors
from lungtl.tracking.spool import WAIT, Spool, send_all

if TYPE_CHECKING:
    from lungtl.settings.schema import TrackingConfig

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where a run is recorded."""

    run_id: str | None

    def params(self, values: Mapping[str, Any]) -> None:
        """Record settings, flat."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Record what runs are filtered by."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record numbers."""

    def epoch(self, values: Mapping[str, float], epoch: int) -> None:
        """Record an epoch's numbers, once: a run that was killed and goes on may tell one again."""

    def artifacts(self, path: Path, under: str | None = None) -> None:
        """Record a file or a folder's content."""

    def close(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""


class NoTracker:
    """tracking=none: results stay in the run's folder."""

    run_id: str | None = None

    def params(self, values: Mapping[str, Any]) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None: ...

    def epoch(self, values: Mapping[str, float], epoch: int) -> None: ...

    def artifacts(self, path: Path, under: str | None = None) -> None: ...

    def close(self, status: str) -> None: ...


class MlflowTracker:
    """A run in MLflow.

    When MLflow is lost while the run goes on, the run goes on: what cannot be sent is kept in the data folder, sent
    at the end if MLflow is back by then, and by `python -m lungtl.sync` otherwise.

    Args:
        config: which store and experiment.
        data_dir: where a local store lies.
        name: of a new run.
        run_id: of the run to go on with.
        reopen: whether that run is running again; otherwise it is only told something more.

    Raises:
        LungtlError: MLflow cannot be reached, or does not take what an earlier part of the run left.
    """

    def __init__(
        self, config: TrackingConfig, data_dir: Path, name: str, run_id: str | None = None, reopen: bool = True
    ) -> None:
        self.client = open_client(config.uri, data_dir)
        try:
            self._id = self._create(config, data_dir, name) if run_id is None else run_id
            self.spool = Spool(data_dir, self._id)
            if run_id is not None and reopen:
                self._reopen()
        except store_errors() as error:
            raise LungtlError(f"MLflow does not open the run ({reason(error)}); mend it, or tracking=none") from error
        self.run_id: str | None = self._id
        self._reopened = run_id is not None
        self._patience = WAIT if reopen else 0  # what a run is told beside its own process can be left out
        uri = [] if config.uri is None else [f"tracking.uri={shown(config.uri)}"]
        self._sync = shlex.join(["python", "-m", "lungtl.sync", f"data_dir={data_dir}", *uri])

    def _create(self, config: TrackingConfig, data_dir: Path, name: str) -> str:
        experiment = experiment_id(self.client, config.experiment, config.uri, data_dir)
        tags = {"mlflow.source.name": "lungtl", "lungtl.version": __version__, **git_tags()}
        return str(self.client.create_run(experiment, tags=tags, run_name=name).info.run_id)

    def _reopen(self) -> None:
        if self.spool.holds_some():
            send_all(self.spool, self.client)
        self.client.update_run(self._id, status="RUNNING")

    def params(self, values: Mapping[str, Any]) -> None:
        self._record(entries.params(values))

    def tags(self, values: Mapping[str, str]) -> None:
        self._record(entries.tags(values))

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self._record(entries.metrics(values, step))

    def epoch(self, values: Mapping[str, float], epoch: int) -> None:
        self._record(entries.metrics(values, epoch, once=self._reopened))

    def artifacts(self, path: Path, under: str | None = None) -> None:
        self._record(entries.artifacts(path, under))

    def close(self, status: str) -> None:
        self._record(entries.end(status))
        if not self.spool.holds_some():
            return
        try:
            self.spool.send(self.client)
            log.info("MLflow is back and has the whole run")
        except LungtlError:
            log.warning("MLflow still misses a part of this run; when it is back: %s", self._sync)
        finally:
            self.spool.leave()

    def _record(self, entry: entries.Entry) -> None:
        """Send an entry; once one could not be sent, keep it and all that follow."""
        if not self.spool.holds_some():
            try:
                entries.send(self.client, self._id, entry)
            except store_errors() as error:
                log.warning("MLflow is lost (%s): the run goes on, and what it misses is kept", reason(error))
            else:
                return
        self.spool.take(self._patience)
        self.spool.append(entry)


class tracked:  # noqa: N801  # reads as a statement: with tracked(tracker)
    """Ends a run by what happened: FINISHED, KILLED when the user stopped it, FAILED otherwise."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def __enter__(self) -> Tracker:
        return self.tracker

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            status = "FINISHED"
        else:
            status = "KILLED" if issubclass(kind, KeyboardInterrupt) else "FAILED"
            self.tracker.tags({"lungtl.error": str(error)[:500]})
        self.tracker.close(status)


def git_tags() -> dict[str, str]:
    """The commit of the checkout that this code runs from; nothing for an installed package."""
    found = own_commit()
    return {} if found is None else {"mlflow.source.git.commit": found[0], "lungtl.git.changed": str(found[1]).lower()}
