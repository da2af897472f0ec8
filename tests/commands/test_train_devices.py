"""`python -m lungtl.train trainer.devices=2`: what one process trains, in one run."""

from __future__ import annotations

from pathlib import Path

import pytest

from lungtl.tracking.backend import open_client
from tests.commands.conftest import QUICK, Lab, read_csv, read_json


@pytest.mark.slow
def test_two_processes_leave_one_run_with_the_results_of_one(lab: Lab, tmp_path: Path) -> None:
    settings = ["trainer.max_epochs=2", "head.dropout=0", "trainer.bucket=true", *QUICK]
    one = lab.train(*settings, "tracking=none").folder
    before = set((lab.data_dir / "runs").iterdir())
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    two = lab.train(*settings, "trainer.devices=2", f"tracking.uri={uri}").folder

    assert set((lab.data_dir / "runs").iterdir()) - before == {two}
    client = open_client(uri, tmp_path)
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val/loss")] == [1, 2]

    training = [read_json(folder / "metrics.json")["training"] for folder in (one, two)]
    assert all(one.pop("seconds") > 0 for one in training)
    assert training[1] == pytest.approx(training[0], abs=1e-5)
    predictions = [read_csv(folder / "predictions.csv") for folder in (one, two)]
    assert [row["bag_id"] for row in predictions[1]] == [row["bag_id"] for row in predictions[0]]
    probabilities = [[float(row["probability"]) for row in rows] for rows in predictions]
    assert probabilities[1] == pytest.approx(probabilities[0], abs=1e-5)
