from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from lungtl.settings.sections import TrackingConfig
from lungtl.sweeps.parent import Progress, parent_of, progress, publish_progress, write_parent
from lungtl.sweeps.state import State, write_state
from lungtl.tracking.backend import open_client
from lungtl.tracking.mlflow_run import find_or_create_run

CONFIG = TrackingConfig(enabled=True, uri=None, experiment="tests")


def add(sweep: Path, name: str, value: float | None = None, monitor: str = "val/loss") -> Path:
    """Add a run; finished if it has a value."""
    folder = sweep / name
    folder.mkdir(parents=True)
    state = State("running", 0, (f"seed={name}",), monitor)
    write_state(folder, state if value is None else replace(state, state="finished", value=value))
    return folder


def test_progress_is_counted_from_the_folders(tmp_path: Path) -> None:
    write_parent(tmp_path, None, 6, "val/loss")
    assert progress(tmp_path) == Progress(0, 0, 6, None, None)
    add(tmp_path, "a", 0.5)
    best = add(tmp_path, "b", 0.25)
    add(tmp_path, "c", math.nan)
    add(tmp_path, "d", 0.125, monitor="val/auroc")  # of another metric
    add(tmp_path, "e")
    write_state(add(tmp_path, "f"), State("failed", 0, (), "val/loss", error="x"))
    assert progress(tmp_path) == Progress(done=4, failed=1, left=1, best=best, value=0.25)


def test_the_best_auroc_is_the_highest(tmp_path: Path) -> None:
    write_parent(tmp_path, None, 2, "val/auroc")
    add(tmp_path, "a", 0.5, "val/auroc")
    best = add(tmp_path, "b", 0.75, "val/auroc")
    assert progress(tmp_path).best == best


def test_a_search_may_start_more_runs_than_expected(tmp_path: Path) -> None:
    write_parent(tmp_path, None, 1, "val/loss")
    add(tmp_path, "a", 0.5)
    add(tmp_path, "b")
    assert progress(tmp_path).left == 1


def test_the_parent_run_shows_it(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    best = add(sweep, "a", 0.5)
    (best / "run.json").write_text(json.dumps({"mlflow_run_id": "abc"}))
    add(sweep, "b")
    run_id = find_or_create_run(CONFIG, tmp_path, "sweep", {"lungtl.kind": "sweep"})
    write_parent(sweep, run_id, 3, "val/loss")
    assert parent_of(sweep) == run_id
    publish_progress(sweep, CONFIG, tmp_path)
    run = open_client(None, tmp_path).get_run(run_id)
    assert run.data.metrics == {"runs/done": 1, "runs/failed": 0, "runs/left": 2, "best_val_loss": 0.5}
    tags = {key: value for key, value in run.data.tags.items() if key.startswith(("lungtl.best", "lungtl.progress"))}
    assert tags == {
        "lungtl.progress": "1 done, 0 failed, 2 left",
        "lungtl.best": "abc", "lungtl.best_overrides": "seed=a", "lungtl.best_by": "val/loss",
    }  # fmt: skip


def test_without_tracking_nothing_is_published(tmp_path: Path) -> None:
    write_parent(tmp_path, None, 1, "val/loss")
    publish_progress(tmp_path, CONFIG, tmp_path)
    assert parent_of(tmp_path) is None
    assert parent_of(tmp_path / "none") is None
    assert not (tmp_path / "mlflow.db").exists()


def test_a_closed_parent_is_not_reopened(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    add(sweep, "a", 0.5)
    run_id = find_or_create_run(CONFIG, tmp_path, "sweep", {"lungtl.kind": "sweep"})
    write_parent(sweep, run_id, 1, "val/loss")
    client = open_client(None, tmp_path)
    client.set_terminated(run_id, "FINISHED")
    publish_progress(sweep, CONFIG, tmp_path)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["lungtl.progress"] == "1 done, 0 failed, 0 left"
