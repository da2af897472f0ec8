"""Sweeps in several processes, and a search, that train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lungtl.search.names import TABLE
from tests.commands.conftest import Lab, read_csv, read_json

pytestmark = pytest.mark.slow
QUICK = ["trainer.max_epochs=2", "evaluation.untrained=false", "evaluation.heatmaps=false", "evaluation.resamples=20"]


def _children(client: Any, sweep: Path) -> list[Any]:
    """MLflow's runs below the sweep's own."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    parent = read_json(sweep / "parent.json")["mlflow_run_id"]
    return list(client.search_runs(experiments, f"tags.`mlflow.parentRunId` = '{parent}'"))


def _folders(sweep: Path) -> list[Path]:
    return sorted(path.parent for path in sweep.glob("*/run.json"))


def test_processes_share_the_feature_cache(lab: Lab, client: Any) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install 'lungtl[joblib]'")
    processes = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = lab.train("sweep.name=processes", "optimizer.lr=1e-3,1e-2", "image.size=40", *processes, *QUICK, sweep=True)
    assert done.code == 0, done.err
    sweep = lab.data_dir / "sweeps" / "processes"
    assert len(_folders(sweep)) == 2
    assert {run.info.status for run in _children(client, sweep)} == {"FINISHED"}
    assert len(_children(client, sweep)) == 2
    assert done.err.count("kept for the next run") == 1, "one computes the features of the size that is new"
    assert done.err.count("features: from the cache") == 1


@pytest.mark.exhaustive
def test_devices_within_a_job_leave_one_run(lab: Lab, client: Any) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'lungtl[submitit]'")
    settings = ["hydra/launcher=slurm_local", "hydra.launcher.cpus_per_task=2", "trainer.devices=2"]
    done = lab.train("sweep.name=devices", "seed=0", *settings, *QUICK, sweep=True)
    assert done.code == 0, done.err
    sweep = lab.data_dir / "sweeps" / "devices"
    (folder,) = _folders(sweep)
    (run,) = _children(client, sweep)
    assert run.info.status == "FINISHED"
    assert run.info.run_id == read_json(folder / "run.json")["mlflow_run_id"]
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val/loss")] == [0, 1]


def test_a_search_is_told_the_validation_value_of_each_run(lab: Lab, client: Any) -> None:
    search = ["hydra/sweeper=optuna", "hydra/sweeper/params=head", "hydra.sweeper.n_trials=2"]
    done = lab.train("sweep.name=search", *search, *QUICK, sweep=True)
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
        assert (
            run.data.params["aggregator._target_"].lower().replace("_", "").endswith(row["aggregator"].replace("_", ""))
        )
