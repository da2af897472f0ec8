"""Sweeps in several processes, and a search, that train."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from lungtl.sweeps.search import TABLE
from lungtl.sweeps.state import read_state
from tests.commands.conftest import MODEL, QUICK, Lab, read_csv, read_json

pytestmark = pytest.mark.slow
SHORT = ["trainer.max_epochs=2", *QUICK]


def _children(client: Any, sweep: Path) -> list[Any]:
    """MLflow's runs below the sweep's own."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    parent = read_json(sweep / "parent.json")["mlflow_run_id"]
    return list(client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent}'"))


def _folders(sweep: Path) -> list[Path]:
    return sorted(path.parent for path in sweep.glob("*/run.json"))


JOBLIB = pytest.param(
    ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], "hydra_plugins.hydra_joblib_launcher", id="joblib"
)
SUBMITIT = pytest.param(["hydra/launcher=slurm_local"], "hydra_plugins.hydra_submitit_launcher", id="slurm_local")


def _kill_first(sweep: Path, command: subprocess.Popen[str]) -> Path:
    """Kill the process of the first child that has one; its folder."""
    while command.poll() is None:
        for path in sweep.glob("*/status.json"):
            state = read_state(path.parent)
            if state is not None and state.state == "running":
                os.kill(state.pid, signal.SIGKILL)
                return path.parent
        time.sleep(0.02)
    raise AssertionError(f"no child began: {command.communicate()[1]}")


@pytest.mark.exhaustive
@pytest.mark.parametrize(("launcher", "needs"), [JOBLIB, SUBMITIT])
def test_a_killed_process_stops_no_other_run_and_no_sweep(
    lab: Lab, client: Any, launcher: list[str], needs: str
) -> None:
    pytest.importorskip(needs)
    name = launcher[0].rpartition("=")[2]
    sweep = lab.data_dir / "sweeps" / name
    settings = [f"sweep.name={name}", "optimizer.lr=1e-3,1e-2,1e-1", "image.size=40", *launcher, *SHORT]
    command = lab.start("train", "-m", *lab.dataset(), *MODEL, "workers=1", *settings)
    killed = _kill_first(sweep, command)
    out, said = command.communicate(timeout=240)
    assert command.returncode == 0, said
    assert said.count("the launcher has stopped (") == 1
    if name == "joblib":  # submitit keeps what its jobs print
        assert {Path(line) for line in out.split()} == set(_folders(sweep))
        logs = "".join((folder / "train.log").read_text() for folder in _folders(sweep))
        assert logs.count("cached features: ") == 1, "one computes the features of the size that is new"
    states = {folder: read_state(folder) for folder in _folders(sweep)}
    assert [state is not None and state.state for state in states.values()] == ["finished"] * 3
    assert killed in states
    runs = _children(client, sweep)
    assert [run.info.status for run in runs] == ["FINISHED"] * 3

    parent = client.get_run(read_json(sweep / "parent.json")["mlflow_run_id"])
    assert parent.info.status == "FINISHED"
    assert (parent.data.metrics["runs/done"], parent.data.metrics["runs/left"]) == (3, 0)
    folders = {run.info.run_id: sweep / run.data.tags["lungtl.config_key"] for run in runs}
    ranked = {run: read_json(folder / "metrics.json")["training"]["val_auroc"] for run, folder in folders.items()}
    assert ranked[parent.data.tags["lungtl.best"]] == max(ranked.values())
    assert "report.html" in [Path(a.path).name for a in client.list_artifacts(parent.info.run_id, "report")]


@pytest.mark.exhaustive
def test_devices_within_a_job_leave_one_run(lab: Lab, client: Any) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'lungtl[submitit]'")
    settings = ["hydra/launcher=slurm_local", "hydra.launcher.cpus_per_task=2", "trainer.devices=2"]
    done = lab.train("sweep.name=devices", "seed=0", *settings, *SHORT, sweep=True)
    assert done.code == 0, done.err
    sweep = lab.data_dir / "sweeps" / "devices"
    (folder,) = _folders(sweep)
    (run,) = _children(client, sweep)
    assert run.info.status == "FINISHED"
    assert run.info.run_id == read_json(folder / "run.json")["mlflow_run_id"]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val/loss")] == [1, 2]


def test_a_search_is_told_the_validation_value_of_each_run(lab: Lab, client: Any) -> None:
    search = ["hydra/sweeper=optuna", "hydra/sweeper/params=head", "hydra.sweeper.n_trials=2"]
    done = lab.train("sweep.name=search", *search, *SHORT, sweep=True)
    assert done.code == 0, done.err
    sweep = lab.data_dir / "sweeps" / "search"
    trials = read_csv(sweep / TABLE)
    assert [row["state"] for row in trials] == ["complete"] * 2
    training = [read_json(folder / "metrics.json")["training"] for folder in _folders(sweep)]
    assert {float(row["value"]) for row in trials} == {run["val/loss"] for run in training}

    runs = {run.data.params["optimizer.lr"]: run for run in _children(client, sweep)}
    assert len(runs) == 2
    for row in trials:
        run = runs[str(float(f"{float(row['optimizer.lr']):.4g}"))]
        history = client.get_metric_history(run.info.run_id, "val/loss")
        assert min(metric.value for metric in history) == pytest.approx(float(row["value"]))
        assert row["epochs"] == "2"
        assert run.data.params["aggregator"] == row["aggregator"]
