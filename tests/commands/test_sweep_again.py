"""The same sweep called again: what is finished is left alone, what was killed or failed goes on."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lungtl.tracking.backend import open_client
from tests.commands import killed_sweep
from tests.commands.conftest import MODEL, QUICK, Lab, read_json
from tests.training import killing

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("LUNGTL_TEST_KILLS", "3"))
GRID = ["aggregator=mean,max,attention", "seed=0,1,2,3"] if KILLS > 3 else ["aggregator=mean,attention", "seed=0,1"]
RUNS = 12 if KILLS > 3 else 4
SHORT = ["trainer.max_epochs=3", "trainer.batch_size=4", "workers=1", *QUICK]


@dataclass(frozen=True)
class Called:
    """A call of a sweep that ended by itself, or was killed."""

    code: int
    said: str
    sweep: Path

    @property
    def plan(self) -> str:
        """The title of the table that it began with."""
        return next(line for line in self.said.splitlines() if line.startswith(f"sweep {self.sweep.name}: ")).strip()


class Caller:
    """Calls sweeps on the lab's dataset in forks of the lab's process."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def __call__(self, name: str, *arguments: str, kill_after: float | None = None) -> Called:
        """Call the sweep; it is killed so many seconds after it started to launch its children."""
        sweep = self.lab.data_dir / "sweeps" / name
        kill = [str(sweep / "parent.json"), kill_after] if kill_after is not None else []
        log = self.lab.root / f"{name}.log"
        line = [*self.lab.dataset(), *MODEL, *SHORT, f"data_dir={self.lab.data_dir}", f"sweep.name={name}", *arguments]
        code = self.lab.forks.run(killed_sweep.command, log, str(self.lab.root), line, *kill)
        return Called(code, log.read_text(), sweep)


@pytest.fixture(scope="module")
def call(lab: Lab) -> Caller:
    return Caller(lab)


@pytest.fixture(scope="module")
def whole(call: Caller) -> tuple[Called, float]:
    """A sweep that nobody disturbed, and the seconds from when it launched the first child."""
    called = call("whole", *GRID)
    assert called.code == 0, called.said
    return called, time.time() - (called.sweep / "parent.json").stat().st_mtime


@pytest.fixture(scope="module")
def disturbed(call: Caller, whole: tuple[Called, float]) -> Called:
    """The same sweep, killed at random moments and called again each time."""
    _, seconds = whole
    moments = random.Random(0)
    killed = [call("disturbed", *GRID, kill_after=moments.uniform(0, seconds / 3)) for _ in range(KILLS)]
    assert {called.code for called in killed} <= {-signal.SIGKILL, 0}  # it may have ended before the last moments
    called = call("disturbed", *GRID)
    assert called.code == 0, called.said
    assert any("killed" in one.plan for one in [*killed, called])  # some moments were in the middle of a run
    return called


def runs(sweep: Path) -> dict[str, Path]:
    return {path.parent.name: path.parent for path in sweep.glob("*/status.json")}


def metrics(folder: Path) -> dict[str, Any]:
    document = read_json(folder / "metrics.json")
    del document["run"]["mlflow_run_id"], document["training"]["seconds"]
    return document


def mlflow_children(client: Any, sweep: Path) -> dict[str, Any]:
    """The runs below a sweep's, by config key; there are no two of a key."""
    parent = client.get_run(read_json(sweep / "parent.json")["mlflow_run_id"])
    found = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    by_key = {run.data.tags["lungtl.config_key"]: run for run in found}
    assert len(by_key) == len(found)
    return by_key


@pytest.mark.exhaustive
def test_killed_at_random_moments_it_has_the_same_runs(whole: tuple[Called, float], disturbed: Called) -> None:
    expected, found = runs(whole[0].sweep), runs(disturbed.sweep)
    assert len(expected) == RUNS
    assert found.keys() == expected.keys()
    for key, folder in found.items():
        assert read_json(folder / "status.json")["state"] == "finished"
        assert metrics(folder) == metrics(expected[key])
        for name in ("predictions.csv", "split.csv", "bundle/model.safetensors"):
            assert (folder / name).read_bytes() == (expected[key] / name).read_bytes(), name


@pytest.mark.exhaustive
def test_killed_at_random_moments_it_has_the_same_mlflow_runs(
    lab: Lab, whole: tuple[Called, float], disturbed: Called
) -> None:
    client = open_client(None, lab.data_dir)
    expected, found = (mlflow_children(client, sweep) for sweep in (whole[0].sweep, disturbed.sweep))
    assert found.keys() == expected.keys()
    for key, run in found.items():
        assert run.info.status == "FINISHED"
        assert run.data.metrics == expected[key].data.metrics
        steps = [point.step for point in client.get_metric_history(run.info.run_id, "val/loss")]
        assert steps == [1, 2, 3]
    parents = client.search_runs(
        [client.get_run(run.info.run_id).info.experiment_id], f"tags.`lungtl.folder` = '{disturbed.sweep}'"
    )
    (parent,) = parents
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["runs/done"] == RUNS
    assert parent.data.metrics["runs/left"] == 0
    best_of = client.get_run(read_json(whole[0].sweep / "parent.json")["mlflow_run_id"]).data.tags["lungtl.best"]
    assert (
        client.get_run(parent.data.tags["lungtl.best"]).data.tags["lungtl.config_key"]
        == (client.get_run(best_of).data.tags["lungtl.config_key"])
    )


def test_a_larger_grid_starts_what_is_new_and_what_failed_when_that_is_asked_for(call: Caller, lab: Lab) -> None:
    table, new = lab.table("later.csv", lab.rows(range(24))), lab.table("new.csv", lab.rows(range(22)))
    grid = f"dataset.table={lab.root / 'labels.csv'},{table}"
    moved = table.rename(lab.root / "away.csv")
    failed = call("mended", grid, "trainer.max_epochs=1")
    assert failed.code == 1
    last = failed.said.rstrip().splitlines()
    assert last[-1].startswith("error: 1 run did not finish")
    assert "sweep.name=mended sweep.retry=true" in last[-1]
    named = [line for line in last if line.startswith("not finished: ")]
    assert ["later.csv" in line for line in named] == [True]
    before = {path: path.stat().st_mtime_ns for path in failed.sweep.glob("*/metrics.json")}
    assert len(before) == 1

    shutil.move(moved, table)
    mended = call("mended", f"{grid},{new}", "trainer.max_epochs=1", "sweep.retry=true")
    assert mended.code == 0, mended.said
    assert mended.plan == "sweep mended: 1 new, 1 finished, 1 failed"  # tests/sweeps/test_jobs.py: without retry
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(mlflow_children(open_client(None, lab.data_dir), mended.sweep)) == len(runs(mended.sweep)) == 3


def test_a_child_that_is_resumed_by_name_is_finished_for_the_sweep(call: Caller, lab: Lab) -> None:
    line = ["-m", *lab.dataset(), *MODEL, *SHORT, f"data_dir={lab.data_dir}", "sweep.name=named", "seed=5",
            "trainer.max_epochs=1"]  # fmt: skip
    log = lab.root / "named.log"
    code = lab.forks.run(killing.command, log, str(lab.root), line, "BagModule", "training_step", 1)
    assert code == -signal.SIGKILL, log.read_text()
    (child,) = (lab.data_dir / "sweeps" / "named").glob("*/run.json")
    resume = [f"resume={child.parent}", f"data_dir={lab.data_dir}"]
    assert lab.forks.run(killing.command, log, str(lab.root), resume) == 0, log.read_text()
    again = call("named", "seed=5", "trainer.max_epochs=1")
    assert again.code == 0
    assert again.plan == "sweep named: 1 finished"
