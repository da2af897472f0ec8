"""One run's record in MLflow."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from lungtl import __version__
from lungtl.tracking.backend import experiment_id, open_client

if TYPE_CHECKING:
    from lungtl.config import TrackingConfig

log = logging.getLogger(__name__)
BATCH = 100  # params that one MLflow request takes


class Tracker(Protocol):
    """Where a run is recorded."""

    run_id: str | None

    def params(self, values: Mapping[str, Any]) -> None:
        """Record settings, flat."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Record what runs are filtered by."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record numbers of an epoch, or of the end."""

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

    def artifacts(self, path: Path, under: str | None = None) -> None: ...

    def close(self, status: str) -> None: ...


class MlflowTracker:
    """A run in MLflow.

    Args:
        config: which store and experiment.
        data_dir: where a local store lies.
        name: of the run.
        parent: id of the sweep's run.
        run_id: of the run to go on with, when resuming.
    """

    def __init__(
        self, config: TrackingConfig, data_dir: Path, name: str, parent: str | None = None, run_id: str | None = None
    ) -> None:
        self.client = open_client(config.uri, data_dir)
        if run_id is None:
            tags = {"mlflow.source.name": "lungtl", "lungtl.version": __version__, **git_tags()}
            if parent is not None:
                tags["mlflow.parentRunId"] = parent
            experiment = experiment_id(self.client, config.experiment, config.uri, data_dir)
            run_id = self.client.create_run(experiment, tags=tags, run_name=name).info.run_id
        else:
            self.client.update_run(run_id, status="RUNNING")
        self.run_id: str | None = run_id
        self._id: str = run_id

    def params(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        items = [Param(key, str(value)[:6000]) for key, value in values.items()]
        for start in range(0, len(items), BATCH):
            self.client.log_batch(self._id, params=items[start : start + BATCH])

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self._id, tags=[RunTag(key, value) for key, value in values.items()])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        items = [Metric(key, value, now, step) for key, value in values.items()]
        for start in range(0, len(items), BATCH):
            self.client.log_batch(self._id, metrics=items[start : start + BATCH])

    def artifacts(self, path: Path, under: str | None = None) -> None:
        if path.is_dir():
            self.client.log_artifacts(self._id, str(path), under)
        else:
            self.client.log_artifact(self._id, str(path), under)

    def close(self, status: str) -> None:
        self.client.set_terminated(self._id, status)


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
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return {}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("the git commit is not recorded (%s)", error)
        return {}
    return {"mlflow.source.git.commit": commit, "lungtl.git.changed": str(bool(changed)).lower()}


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
