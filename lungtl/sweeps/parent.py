"""A sweep's own run in MLflow, the parent of its children's; kept up to date from what their folders say."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lungtl.data.store.files import whole_file
from lungtl.runs.folder import RECORD, read_record
from lungtl.sweeps.state import children, read_state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lungtl.settings.schema import TrackingConfig

PARENT, LOCK = "parent.json", "parent.json.lock"


@dataclass(frozen=True)
class Progress:
    """How far a sweep is.

    Attributes:
        done: children that finished.
        failed: children whose last attempt failed.
        left: children that did neither, as far as they are known.
        best: the folder of the child with the best value, None while there is none.
        value: of the monitored metric, of that child.
    """

    done: int
    failed: int
    left: int
    best: Path | None
    value: float | None


def write_parent(sweep: Path, mlflow_run_id: str | None, total: int, monitor: str) -> None:
    """Write parent.json: what the children, wherever they run, know of the sweep.

    Args:
        sweep: its folder.
        mlflow_run_id: of the parent; None without tracking.
        total: of children, as far as it is known.
        monitor: the metric that chooses the best.
    """
    content = {"mlflow_run_id": mlflow_run_id, "total": total, "monitor": monitor}
    with whole_file(sweep / PARENT, sweep) as file:
        file.write(json.dumps(content, indent=2).encode())


def read_parent(sweep: Path) -> dict[str, Any] | None:
    """What parent.json says; None where there is none."""
    path = sweep / PARENT
    return dict(json.loads(path.read_text())) if path.is_file() else None


def parent_of(sweep: Path) -> str | None:
    """The parent run's id, from the sweep's folder; None without tracking."""
    parent = read_parent(sweep)
    return None if parent is None else parent["mlflow_run_id"]


def identity_in_sweep(folder: Path) -> dict[str, str] | None:
    """Tags that find a child's MLflow run again; None without tracking."""
    from lungtl.tracking.identity import KEY
    from lungtl.tracking.identity import PARENT as PARENT_TAG

    parent = parent_of(folder.parent)
    return None if parent is None else {PARENT_TAG: parent, KEY: folder.name, "sweep": folder.parent.name}


def progress(sweep: Path) -> Progress:
    """How far a sweep is, by the states of its children; NaN is never the best value."""
    parent = read_parent(sweep) or {"total": 0, "monitor": ""}
    states = {folder: read_state(folder) for folder in children(sweep)}
    done = sum(state is not None and state.state == "finished" for state in states.values())
    failed = sum(state is not None and state.state == "failed" for state in states.values())
    values = {
        folder: state.value
        for folder, state in states.items()
        if state is not None and state.monitor == parent["monitor"] and state.value is not None
    }
    choose = max if parent["monitor"] == "val/auroc" else min
    comparable = [folder for folder, value in values.items() if value == value]
    best = choose(comparable, key=lambda folder: values[folder], default=None)
    left = max(parent["total"], len(states)) - done - failed
    return Progress(done, failed, left, best, None if best is None else values[best])


def tell_progress(sweep: Path, tracking: TrackingConfig, data_dir: Path) -> None:
    """Update the parent run's tags and metrics; nothing without tracking."""
    from lungtl.tracking.tracker import MlflowTracker

    run_id = parent_of(sweep)
    if run_id is None:
        return
    with FileLock(sweep / LOCK):  # children that end together: the later one's numbers stay
        now = progress(sweep)
        tracker = MlflowTracker(tracking, data_dir, sweep.name, run_id=run_id, reopen=False)
        tracker.metrics(metrics_of(now), step=now.done + now.failed)
        tracker.tags(tags_of(sweep, now))


def metrics_of(now: Progress) -> dict[str, float]:
    """Numbers of the parent run."""
    counts: dict[str, float] = {"runs/done": now.done, "runs/failed": now.failed, "runs/left": now.left}
    return counts if now.value is None else {**counts, "best": now.value}


def tags_of(sweep: Path, now: Progress) -> Mapping[str, str]:
    """Tags of the parent run."""
    tags = {"lungtl.progress": f"{now.done} done, {now.failed} failed, {now.left} left"}
    state = read_state(now.best) if now.best is not None else None
    if now.best is None or state is None:
        return tags
    return tags | {
        "lungtl.best": run_reference(now.best),
        "lungtl.best_overrides": " ".join(state.overrides),
        "lungtl.best_by": state.monitor,
    }


def run_reference(folder: Path) -> str:
    """What names a child on a command line: its MLflow id, or without tracking its folder."""
    run_id = read_record(folder)["mlflow_run_id"] if (folder / RECORD).is_file() else None
    return str(run_id or folder)
