"""One MLflow run: create it, find it again by its tags, write to it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from lungtl.runs.environment import own_commit
from lungtl.settings.version import VERSION
from lungtl.tracking.backend import experiment_id, open_client, readable_errors

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from lungtl.settings.sections import TrackingConfig

PARENT, KEY, FOLDER = "mlflow.parentRunId", "lungtl.config_key", "lungtl.folder"
NOTE = "mlflow.note.content"
"""The tag that MLflow's page of a run shows as its description."""
BATCH = 100  # MLflow's limit on the params of one request
DIGEST = 36  # characters; MLflow's limit on the digest of a dataset
LONGEST_PARAM = 6000  # characters; MLflow's limit


def git_tags() -> dict[str, str]:
    """The commit of the checkout that this code runs from; empty for an installed package."""
    found = own_commit()
    return {} if found is None else {"mlflow.source.git.commit": found[0], "lungtl.git.changed": str(found[1]).lower()}


def create_run(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str] | None = None) -> str:
    """Create a run, and return its id."""
    all_tags = {"mlflow.source.name": "lungtl", "lungtl.version": VERSION, **git_tags(), **(tags or {})}
    return str(client.create_run(experiment, tags=all_tags, run_name=name).info.run_id)


def find_or_create_run(config: TrackingConfig, data_dir: Path, name: str, tags: Mapping[str, str]) -> str:
    """The id of the run with these tags, which is created unless it exists.

    A process that is killed between creating the run and storing its id thus finds the same run when it is restarted.

    Args:
        config: store and experiment.
        data_dir: contains a local store.
        name: of a new run.
        tags: a combination that is unique in the experiment.

    Raises:
        LungtlError: MLflow is unreachable or refuses the request.
    """
    client = open_client(config.uri, data_dir)
    with readable_errors("MLflow cannot open the run"):
        experiment = experiment_id(client, config.experiment, config.uri, data_dir)
        query = " and ".join(f'tags.`{key}` = "{value}"' for key, value in tags.items())
        found = client.search_runs([experiment], query, max_results=1)
        return str(found[0].info.run_id) if found else create_run(client, experiment, name, tags)


class Tracker:
    """Where a run is recorded; this one records nothing: results stay in the run's folder."""

    run_id: str | None = None
    """The run's id in MLflow."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Record settings, flat."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Record tags; runs are filtered by them."""

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Record results."""

    def epoch(self, values: Mapping[str, float], epoch: int) -> None:
        """Record an epoch's metrics once, even if a resumed run repeats the epoch."""

    def dataset(self, name: str, fingerprint: str, context: str) -> None:
        """Record which data were used, for "training" or "evaluation"."""

    def describe(self, result: str, text: str) -> None:
        """Record what the run is, in Markdown: its result in a few words, and a longer text."""

    def artifacts(self, path: Path, under: str | None = None) -> None:
        """Record a file, or the content of a folder."""

    def close(self, status: str) -> None:
        """End the run: FINISHED, FAILED or KILLED."""


class MlflowRun(Tracker):
    """Writes to an MLflow run. Every method raises `backend.store_errors()`.

    Args:
        client: of the store that contains the run.
        run_id: the run.
        resumed: MLflow may already have some of what is about to be sent: params and epochs that it has are skipped,
            and so are metrics whose latest value would not change.
    """

    run_id: str

    def __init__(self, client: MlflowClient, run_id: str, resumed: bool = False) -> None:
        self.client, self.run_id, self.resumed = client, run_id, resumed
        self._sent_epochs: dict[str, set[int]] = {}

    def params(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params if self.resumed else {}
        params = [Param(key, str(value)[:LONGEST_PARAM]) for key, value in values.items() if key not in known]
        for start in range(0, len(params), BATCH):
            self.client.log_batch(self.run_id, params=params[start : start + BATCH])

    def tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in values.items()])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        known = self.client.get_run(self.run_id).data.metrics if self.resumed else {}
        self._log({key: value for key, value in values.items() if known.get(key) != value}, step)

    def epoch(self, values: Mapping[str, float], epoch: int) -> None:
        self._log({key: value for key, value in values.items() if epoch not in self._epochs_of(key)}, epoch)

    def dataset(self, name: str, fingerprint: str, context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = Dataset(name, fingerprint[:DIGEST], "local", json.dumps({"store": name, "fingerprint": fingerprint}))
        self.client.log_inputs(self.run_id, [DatasetInput(data, [InputTag("mlflow.data.context", context)])])

    def describe(self, result: str, text: str) -> None:
        """Set the description: the result, a link to the tab with the learning curves, the text."""
        experiment = self.client.get_run(self.run_id).info.experiment_id
        charts = f"#/experiments/{experiment}/runs/{self.run_id}/model-metrics"
        self.tags({NOTE: f"**{result}** [Charts]({charts})\n\n{text}"})

    def artifacts(self, path: Path, under: str | None = None) -> None:
        if not path.is_dir():
            self.client.log_artifact(self.run_id, str(path), under)
            return
        uri = str(self.client.get_run(self.run_id).info.artifact_uri)
        if uri.startswith("file:///"):
            target = Path(url2pathname(urlsplit(uri).path), under or "")
            shutil.copytree(path, target, copy_function=_link, dirs_exist_ok=True)
        else:
            self.client.log_artifacts(self.run_id, str(path), under)

    def close(self, status: str, end_time: int | None = None) -> None:
        """End the run.

        Args:
            status: FINISHED, FAILED or KILLED.
            end_time: milliseconds since 1970; None: now.
        """
        self.client.set_terminated(self.run_id, status, end_time)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(key, float(value), now, step) for key, value in values.items()]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(self.run_id, metrics=metrics[start : start + BATCH])

    def _epochs_of(self, key: str) -> set[int]:
        """The epochs of a metric that MLflow had when this process first sent it."""
        if not self.resumed:
            return set()
        if key not in self._sent_epochs:
            history = self.client.get_metric_history(self.run_id, key)
            self._sent_epochs[key] = {metric.step for metric in history}
        return self._sent_epochs[key]


def _link(source: str, target: str) -> None:
    """A second name for a file, so that a bundle takes its space once; a copy on another disk."""
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk, or a file system without links
        shutil.copyfile(source, target)
