"""What MLflow gets of a folder, and that sending it again records nothing twice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lungtl.settings.errors import LungtlError
from lungtl.tracking import publish
from lungtl.tracking.backend import open_client
from lungtl.tracking.mlflow_run import KEY, MlflowRun, find_or_create_run
from tests.tracking import run_folder
from tests.tracking.run_folder import config, recorded, run_in

pytestmark = pytest.mark.usefixtures("store")


def new_run(data_dir: Path) -> MlflowRun:
    client = open_client(None, data_dir)
    return MlflowRun(client, find_or_create_run(config(), data_dir, "a run", {KEY: data_dir.name}), resumed=True)


def test_a_run_is_recorded_from_its_folder(tmp_path: Path) -> None:
    tracker = run_in(tmp_path / "run", tmp_path)
    found = recorded(tracker.client, tracker.run_id)
    assert found["status"] == "FINISHED"
    assert found["params"] == {**run_folder.PARTS, "seed": "3", "optimizer.lr": "1e-05", "name": "None",
                               "loss._target_": "mine.Loss"}  # fmt: skip
    assert "lungtl.weights_split_fingerprint" not in found["tags"]
    assert found["tags"].items() >= {
        **run_folder.PARTS, "lungtl.kind": "run", "lungtl.store": "phantom-1", "lungtl.store_fingerprint": "aa",
        "lungtl.split_fingerprint": "bb", "lungtl.weights_source": "hub", "lungtl.auroc": "0.875 [0.500, 1.000]",
    }.items()  # fmt: skip
    assert found["metrics"] == {
        "lr": [(0, "0.1"), (1, "0.1"), (2, "0.1")],
        "val/loss": [(epoch, str(1 / (epoch + 3))) for epoch in range(3)],
        "val/auroc": [(0, "nan"), (1, "nan"), (2, "nan")],
        "test_auroc": [(0, "0.875")], "test_brier": [(0, "0.25")],
        "trainable_parameters": [(0, "7.0")], "epochs": [(0, "3.0")], "best_epoch": [(0, "2.0")],
        "best_val_auroc": [(0, "0.75")],
    }  # fmt: skip
    assert found["artifacts"] == [
        "bundle/config.json", "calibration.json", "checkpoints/best.ckpt", "config.yaml", "environment.json",
        "figures/roc.png", "metrics.json", "predictions.csv", "slices.csv", "split.csv", "validation.csv",
    ]  # fmt: skip


def test_the_data_and_the_model_card_are_recorded_once(tmp_path: Path) -> None:
    tracker = run_in(tmp_path / "run", tmp_path)
    (tmp_path / "run" / "bundle" / "card.md").write_text("# a card")
    for _ in range(2):
        publish.run(MlflowRun(tracker.client, tracker.run_id, resumed=True), tmp_path / "run")
    run = tracker.client.get_run(tracker.run_id)
    charts = f"#/experiments/{run.info.experiment_id}/runs/{tracker.run_id}/model-metrics"
    note = run.data.tags["mlflow.note.content"]
    assert note == f"**AUROC 0.875 [0.500, 1.000], split test** [Charts]({charts})\n\n# a card"
    assert run.inputs is not None
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("phantom-1", "aa")
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]


def test_an_undefined_validation_auroc_is_omitted(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    training = {"trainable_parameters": 7, "epochs": 3, "best_epoch": 2, "val_auroc": None}
    run_folder.write_metrics(tmp_path, training=training)
    publish.results(run, tmp_path)
    metrics = recorded(run.client, run.run_id)["metrics"]
    assert "epochs" in metrics
    assert "best_val_auroc" not in metrics


def test_publishing_again_records_nothing_twice(tmp_path: Path) -> None:
    tracker = run_in(tmp_path / "run", tmp_path)
    expected = recorded(tracker.client, tracker.run_id)
    for _ in range(2):
        publish.run(MlflowRun(tracker.client, tracker.run_id, resumed=True), tmp_path / "run")
    assert recorded(tracker.client, tracker.run_id) == expected


def test_a_folder_without_files_is_no_error(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    publish.run(run, tmp_path)
    publish.evaluation(run, tmp_path)
    found = recorded(run.client, run.run_id)
    assert (found["params"], found["metrics"], found["artifacts"]) == ({}, {}, [])


def test_an_evaluation_is_recorded_from_its_folder(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    folder = tmp_path / "evaluation"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text("split: auto\nthreshold: 0.5\nresamples: 20\ndata_dir: ${x:}\n")
    run_folder.write_metrics(folder, model="abc", store_name="phantom-1", store_fingerprint="aa")
    (folder / "predictions.csv").write_text("")
    publish.evaluation(run, folder)
    found = recorded(run.client, run.run_id)
    assert found["params"] == {"model": "abc", "split": "auto", "threshold": "0.5", "resamples": "20"}
    tags = {"lungtl.kind": "evaluation", "lungtl.model": "abc", "lungtl.store": "phantom-1",
            "lungtl.store_fingerprint": "aa"}  # fmt: skip
    assert found["tags"].items() >= tags.items()
    assert found["metrics"]["test_auroc"] == [(0, "0.875")]
    assert found["artifacts"] == ["metrics.json", "predictions.csv"]
    assert "- test: 8 cases of 8 patients, 4 positive\n- AUROC " in found["tags"]["mlflow.note.content"]
    assert json.loads((folder / "metrics.json").read_text())["model"] == "abc"


@pytest.mark.parametrize("name", ["split.csv", "figures/secret", "bundle"])
def test_nothing_outside_the_runs_folder_is_sent(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_text("of the user", encoding="utf-8")
    folder = tmp_path / "run"
    run_in(folder, tmp_path)
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(tmp_path if name == "bundle" else tmp_path / "secret")
    with pytest.raises(LungtlError, match="link out of the run's folder"):
        publish.run(new_run(tmp_path), folder)
