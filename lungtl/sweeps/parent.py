"""A sweep's own run in MLflow, the parent of its runs; kept up to date from their folders."""

from __future__ import annotations

import json
import logging
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lungtl.data.store.files import whole_file
from lungtl.runs.folder import RECORD, read_json, read_record
from lungtl.settings.errors import LungtlError
from lungtl.settings.sections import TrackingConfig
from lungtl.sweeps.state import read_state, read_states
from lungtl.tracking.backend import open_client, readable_errors
from lungtl.tracking.mlflow_run import FOLDER, KEY, MlflowRun, Tracker
from lungtl.tracking.mlflow_run import PARENT as PARENT_TAG
from lungtl.tracking.publish import files

log = logging.getLogger(__name__)
PARENT, LOCK = "parent.json", "parent.json.lock"
CONFIG, MULTIRUN, REPORT = "config.yaml", "multirun.yaml", "report"


@dataclass(frozen=True)
class Progress:
    """How many runs of a sweep are done, failed (at their last attempt) and left (as far as known), and the best."""

    done: int
    failed: int
    left: int
    best: Path | None  # folder of the run with the best value
    value: float | None  # of the monitored metric in that run

    def publish(self, tracker: Tracker) -> None:
        """Write metrics and tags to the parent run."""
        metrics: dict[str, float] = {"runs/done": self.done, "runs/failed": self.failed, "runs/left": self.left}
        tags = {"lungtl.progress": f"{self.done} done, {self.failed} failed, {self.left} left"}
        state = read_state(self.best) if self.best is not None else None
        if self.best is not None and self.value is not None and state is not None:
            metrics[f"best_{state.monitor.replace('/', '_')}"] = self.value
            tags |= best_tags(self.best, state.monitor)
        tracker.metrics(metrics, step=self.done + self.failed)
        tracker.tags(tags)


def best_tags(run: Path, by: str) -> dict[str, str]:
    """Tags of a parent run that name the best run of the sweep, and what it is best by."""
    state = read_state(run)
    overrides = "" if state is None else " ".join(state.overrides)
    return {"lungtl.best": run_reference(run), "lungtl.best_overrides": overrides, "lungtl.best_by": by}


def write_parent(sweep: Path, mlflow_run_id: str | None, total: int, monitor: str) -> None:
    """Write parent.json: the parent's MLflow id, the number of runs as far as known, and the metric of the best.

    Also a new name for this call of the sweep: clocks, which may differ between machines, cannot tell calls apart.
    """
    content = {"mlflow_run_id": mlflow_run_id, "total": total, "monitor": monitor, "call": secrets.token_hex(4)}
    with whole_file(sweep / PARENT, sweep) as file:
        file.write(json.dumps(content, indent=2).encode())


def read_parent(sweep: Path) -> dict[str, Any] | None:
    """The content of parent.json; None if the file is missing, or with a warning if it is damaged."""
    path = sweep / PARENT
    if not path.is_file():
        return None
    try:
        return read_json(path)
    except LungtlError as error:
        log.warning("%s", error)
        return None


def parent_of(sweep: Path) -> str | None:
    """The MLflow id of a sweep's own run; None without tracking."""
    parent = read_parent(sweep)
    return None if parent is None else parent.get("mlflow_run_id")


def identity_in_sweep(folder: Path) -> dict[str, str] | None:
    """Tags that identify the MLflow run of a run of a sweep; None without tracking."""
    parent = parent_of(folder.parent)
    return None if parent is None else {PARENT_TAG: parent, KEY: folder.name, "sweep": folder.parent.name}


def progress(sweep: Path) -> Progress:
    """How far a sweep has got, from the states of its runs; NaN is never the best value."""
    parent = {"total": 0, "monitor": "", **(read_parent(sweep) or {})}
    states = read_states(sweep)
    done = sum(state.state == "finished" for state in states.values())
    failed = sum(state.state == "failed" for state in states.values())
    values = {
        folder: state.value
        for folder, state in states.items()
        if state.monitor == parent["monitor"] and state.value is not None and state.value == state.value
    }
    select = max if parent["monitor"] == "val/auroc" else min
    best = select(values, key=lambda folder: values[folder], default=None)
    left = max(parent["total"], len(states)) - done - failed
    return Progress(done, failed, left, best, None if best is None else values[best])


def publish_progress(sweep: Path, tracking: TrackingConfig, data_dir: Path) -> None:
    """Update the parent run's metrics and tags; does nothing without tracking."""
    run_id = parent_of(sweep)
    if run_id is None:
        return
    with FileLock(sweep / LOCK):  # of runs that end at the same time, the last one's numbers remain
        client = open_client(tracking.uri, data_dir)
        with readable_errors(f"MLflow does not accept the progress of {sweep.name}"):
            progress(sweep).publish(MlflowRun(client, run_id))


def publish_sweep(tracker: Tracker, sweep: Path) -> None:
    """Write a sweep's progress, settings and report to its parent run, from the files of its folder alone."""
    progress(sweep).publish(tracker)
    tracker.tags({"lungtl.kind": "sweep", FOLDER: str(sweep), "sweep": sweep.name})
    files(tracker, sweep, CONFIG, MULTIRUN, REPORT)
    if (table := sweep / REPORT / "README.md").is_file():
        tracker.describe("Compared in report/report.html, see Artifacts", table.read_text(encoding="utf-8"))


def run_reference(folder: Path) -> str:
    """How a command line names a run of a sweep: by its MLflow id, or without tracking by its folder."""
    run_id = read_record(folder)["mlflow_run_id"] if (folder / RECORD).is_file() else None
    return str(run_id or folder)
