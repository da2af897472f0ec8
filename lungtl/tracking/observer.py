"""Records a run in MLflow while it proceeds."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from lungtl.data.splits import split_bags
from lungtl.data.store.opening import open_store
from lungtl.runs.experiment import Observer, Result, run_experiment
from lungtl.runs.folder import CONFIG, new_run_folder, read_record, read_yaml, run_lock
from lungtl.runs.log import logged
from lungtl.runs.naming import run_name
from lungtl.settings.credentials import VARIABLE
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import EvaluateConfig, TrainConfig
from lungtl.tracking import publish
from lungtl.tracking.backend import open_client
from lungtl.tracking.mlflow_run import Tracker, find_or_create_run
from lungtl.tracking.tracker import MlflowTracker, SentLater, tracked
from lungtl.tracking.unsent import read_unsent

log = logging.getLogger(__name__)


class TrackingObserver(Observer):
    """Sends what a run writes into its folder to its tracker.

    Args:
        tracker: of the run.
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker, self.run_id = tracker, tracker.run_id

    def started(self, folder: Path) -> None:
        publish.start(self.tracker, folder)
        publish.epochs(self.tracker, folder)  # of an earlier attempt that was not tracked

    def epoch(self, values: Mapping[str, float], epoch: int) -> None:
        self.tracker.epoch(values, epoch)

    def pruned(self, folder: Path) -> None:
        self.tracker.tags({"lungtl.pruned": "true"})

    def finished(self, folder: Path) -> None:
        publish.results(self.tracker, folder)


def check_tracking(config: TrainConfig, resumed: Path | None = None) -> None:
    """Check that the tracking store can be used.

    Args:
        config: of the run.
        resumed: the folder of the run that is resumed, if any; its server is used only if the user names it again.

    Raises:
        UsageError: the resumed run was recorded elsewhere.
        LungtlError: the store cannot be used.
    """
    if not config.tracking.enabled:
        return
    earlier = None if resumed is None else _earlier_uri(resumed)
    if earlier is not None and config.tracking.uri is None:
        remedy = f"set {VARIABLE} to it" if "***" in earlier else f"add tracking.uri={earlier}"
        raise UsageError(f"the run was recorded at tracking.uri={earlier}; {remedy}, or add tracking=none")
    open_client(config.tracking.uri, config.data_dir)


def _earlier_uri(folder: Path) -> str | None:
    """Where a run was recorded before; None: in the data folder, or nowhere."""
    if read_record(folder).get("mlflow_run_id") is None:
        return None
    unsent = read_unsent(folder)
    if unsent is not None:
        return unsent.tracking_uri
    uri = read_yaml(folder / CONFIG)["tracking"]["uri"]
    return None if uri is None else str(uri)


@contextmanager
def track(
    config: TrainConfig,
    name: str,
    folder: Path,
    run_id: str | None = None,
    identity: Mapping[str, str] | None = None,
) -> Iterator[TrackingObserver]:
    """Record a run while the body runs, and close it by how the body ended.

    Args:
        config: of the run.
        name: of a new run.
        folder: of the run.
        run_id: of the run to resume.
        identity: tags that find this run again if it was created before (see `find_or_create_run`).

    Yields:
        The observer for `run_experiment`.
    """
    tracker = Tracker()
    if config.tracking.enabled:
        if run_id is None and identity is not None:
            run_id = find_or_create_run(config.tracking, config.data_dir, name, identity)
        tracker = MlflowTracker(config.tracking, config.data_dir, name, folder, publish.run, run_id)
    elif run_id is not None:
        tracker = SentLater(folder, run_id, _earlier_uri(folder), config.tracking.experiment)
    with tracked(tracker):
        yield TrackingObserver(tracker)


def track_evaluation(config: EvaluateConfig, name: str, folder: Path) -> AbstractContextManager[Tracker]:
    """Record an evaluation as an MLflow run of its own while the body runs; yields its tracker."""
    if not config.tracking.enabled:
        return tracked(Tracker())
    return tracked(MlflowTracker(config.tracking, config.data_dir, name, folder, publish.evaluation))


def run_tracked(config: TrainConfig, folder: Path | None = None) -> Result:
    """Open the store, split, and run an experiment outside Hydra; see `lungtl.run`."""
    folder = (folder or new_run_folder(config.data_dir)).resolve()
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"folder={folder} is not empty; give a new folder for the run")
    check_tracking(config)
    folder.mkdir(parents=True, exist_ok=True)
    with logged(folder):
        log.info("folder: %s", folder)
        return _run_logged(config, folder)


def _run_logged(config: TrainConfig, folder: Path) -> Result:
    store = open_store(config)
    split = split_bags(store.bags, config.split, config.trains_on_votes)
    name = config.name or run_name(config.choices, config.overrides)
    with run_lock(folder), track(config, name, folder) as observer:
        result = run_experiment(config, store, split, folder, name=name, observer=observer)
    assert result is not None  # nothing prunes it
    return result
