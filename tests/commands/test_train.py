from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from lungtl.tracking.mlflow_run import git_tags
from tests.commands.conftest import N_SERIES, QUICK, Lab, Trained, read_csv, read_json, uid

pytestmark = pytest.mark.slow

METRICS = {
    "auroc", "auprc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1", "brier", "ece",
    "calibration_error",
}  # fmt: skip


def _estimates_are_whole(table: dict[str, Any]) -> None:
    assert {"n", "n_patients", "n_positive", "threshold", "metrics"} <= set(table)
    assert set(table["metrics"]) == METRICS
    for estimate in table["metrics"].values():
        if estimate["undefined"] is None:
            assert estimate["low"] <= estimate["value"] <= estimate["high"]
        else:
            assert estimate["undefined"]


def test_the_folder_is_all_of_standard_output(lab: Lab, trained: Trained) -> None:
    assert trained.done.out == f"{trained.folder}\n"
    assert trained.folder.parent == lab.data_dir / "runs"
    lines = trained.done.err.splitlines()
    assert lines[0] == f"folder: {trained.folder}"
    shown = lines[next(i for i, line in enumerate(lines) if line.startswith("test: ")) :]
    assert 6 <= len(shown) <= 11
    assert any(line.startswith("AUROC ") for line in shown)
    assert any(line.startswith("epoch 2/2  train loss ") for line in lines)
    log = (trained.folder / "train.log").read_text()
    assert all(line in log for line in shown)
    assert "95 % intervals" in (trained.folder / "summary.txt").read_text()


def test_the_folder_holds_everything(trained: Trained) -> None:
    for name in (
        "metrics.json", "predictions.csv", "slices.csv", "split.csv", "run.json", "bundle/config.json",
        "bundle/model.safetensors", "bundle/card.md", "checkpoints/best.ckpt", "checkpoints/last.ckpt",
        "figures/roc.png", "figures/precision_recall.png", "figures/reliability.png", "figures/confusion.png",
        "figures/montage.png", "figures/attention_surest_hit.png", "figures/learning.png",
    ):  # fmt: skip
        assert (trained.folder / name).stat().st_size > 0, name
    assert "not a medical device" in (trained.folder / "bundle" / "card.md").read_text()


def test_metrics_follow_the_schema(trained: Trained) -> None:
    document = trained.metrics
    assert document["split"] == "test"
    assert document["slice"] is None  # slice labels are unknown
    _estimates_are_whole(document["bag"])
    _estimates_are_whole(document["controls"]["prevalence"])
    assert document["bag"]["n"] == document["controls"]["prevalence"]["n"] == N_SERIES // 4
    assert document["training"]["epochs"] == 2


def test_predictions_and_slices_are_those_of_the_test_patients(trained: Trained) -> None:
    split = read_csv(trained.folder / "split.csv")
    test = {row["bag_id"] for row in split if row["split"] == "test"}
    predictions = read_csv(trained.folder / "predictions.csv")
    assert {"bag_id", "patient_id", "label", "probability"} <= set(predictions[0])
    assert {row["bag_id"] for row in predictions} == test
    for row in predictions:
        assert row["bag_id"] == uid(int(row["patient_id"][1:]))
        assert int(row["label"]) == int(row["patient_id"][1:]) % 2
        assert 0 < float(row["probability"]) < 1
    slices = read_csv(trained.folder / "slices.csv")
    for bag_id in test:
        assert sum(float(row["weight"]) for row in slices if row["bag_id"] == bag_id) == pytest.approx(1)


def test_no_patient_stands_on_two_sides(trained: Trained) -> None:
    split = read_csv(trained.folder / "split.csv")
    assert len(split) == N_SERIES == len({row["patient_id"] for row in split})
    assert {row["split"] for row in split} == {"train", "val", "test"}


def test_the_same_command_gives_the_same_numbers(untracked: Trained, trained: Trained) -> None:
    assert trained.folder != untracked.folder
    for name in ("predictions.csv", "slices.csv", "split.csv", "epochs.csv"):
        assert (trained.folder / name).read_bytes() == (untracked.folder / name).read_bytes(), name
    first, second = untracked.metrics, trained.metrics
    for document in (first, second):
        assert document["training"].pop("seconds") > 0
    for key in ("bag", "controls", "training"):
        assert first[key] == second[key]


def test_a_second_run_reads_the_feature_cache(fresh: Lab, untracked: Trained) -> None:
    assert "from the cache" not in untracked.done.err
    assert "from the cache" in fresh.train("trainer.max_epochs=1", "tracking=none", *QUICK).err


def test_without_tracking_a_run_has_no_id(untracked: Trained) -> None:
    assert read_json(untracked.folder / "run.json")["mlflow_run_id"] is None  # its fixture looks for a database


def test_every_epoch_is_on_disk_without_tracking(untracked: Trained) -> None:
    epochs = read_csv(untracked.folder / "epochs.csv")
    assert [row["epoch"] for row in epochs] == ["1", "2"]
    assert all(float(row["lr"]) > 0 for row in epochs)
    best = untracked.metrics["training"]
    assert float(epochs[best["best_epoch"] - 1]["val/loss"]) == best["val/loss"]


def test_mlflow_knows_the_run(lab: Lab, trained: Trained, client: Any) -> None:
    run = client.get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    params, tags = run.data.params, run.data.tags
    assert params["backbone.name"] == "test_resnet.r160_in1k"
    assert params["trainer.max_epochs"] == "2"
    assert params["dataset.root"] == str(lab.scans)
    assert params["seed"] == "0"
    assert {tags[key] for key in ("dataset", "freezing", "aggregator")} == {"dicom", "frozen", "mean_max"}
    assert tags["backbone"]
    assert tags["lungtl.kind"] == "run"
    assert tags["lungtl.folder"] == str(trained.folder)
    record = read_json(trained.folder / "run.json")
    for key in ("store", "store_fingerprint", "split_fingerprint", "weights_fingerprint"):
        assert tags[f"lungtl.{key}"] == record[key]
    if git_tags():
        assert re.fullmatch("[0-9a-f]{40}", tags["mlflow.source.git.commit"])


def test_mlflow_has_every_epoch_and_the_final_metrics(trained: Trained, client: Any) -> None:
    for name in ("train/loss", "val/loss"):
        history = client.get_metric_history(trained.run_id, name)
        assert [point.step for point in history] == [1, 2]
        assert all(math.isfinite(point.value) for point in history)
    final = client.get_run(trained.run_id).data.metrics
    estimate = trained.metrics["bag"]["metrics"]["auroc"]
    assert final["test_auroc"] == estimate["value"]
    assert len(final) < 30
    assert 0 <= final["test_auroc_untrained"] <= 1
    assert final["epochs"] == 2


def test_mlflow_has_the_artifacts(trained: Trained, client: Any) -> None:
    at_top = {item.path for item in client.list_artifacts(trained.run_id)}
    assert at_top >= {"figures", "bundle", "checkpoints", "predictions.csv", "split.csv", "config.yaml", "metrics.json"}
    figures = {item.path for item in client.list_artifacts(trained.run_id, "figures")}
    assert "figures/roc.png" in figures


def test_nothing_is_written_beside_the_data_folder(lab: Lab, trained: Trained) -> None:
    assert not [path.name for path in lab.root.iterdir() if path.name in ("outputs", "multirun", "mlruns", "mlflow.db")]


def test_weights_of_an_earlier_run(lab: Lab, trained: Trained) -> None:
    done = lab.train(f"backbone.weights={trained.folder}", "tracking=none", *QUICK)
    assert "another split" not in done.err
    record = read_json(Path(done.out.strip()) / "run.json")
    assert (record["weights_source"], record["weights_file_name"]) == ("bundle", "model.safetensors")
    assert re.fullmatch("[0-9a-f]{64}", record["weights_sha256"])


def test_weights_that_the_test_patients_trained(lab: Lab, trained: Trained) -> None:
    done = lab.train(f"backbone.weights={trained.folder}", "split.seed=1", "tracking=none")
    assert "test patients trained these weights or chose their epoch" in done.complaint(2)


def test_too_few_patients(lab: Lab) -> None:
    table = lab.table("few.csv", lab.rows([0, 1, 2]))
    message = lab.train(f"dataset.table={table}", "tracking=none").complaint()
    assert "3 patients" in message
    assert "add patients" in message


def test_one_class(lab: Lab) -> None:
    table = lab.table("negative.csv", lab.rows(range(0, N_SERIES, 2)))
    assert "both classes" in lab.train(f"dataset.table={table}", "tracking=none").complaint()


def test_weights_that_are_no_file(lab: Lab, tmp_path: Path) -> None:
    missing = tmp_path / "weights.safetensors"
    message = lab.train(f"backbone.weights={missing}", "tracking=none").complaint()
    assert str(missing) in message
    assert "backbone.weights=none" in message


def test_an_unreachable_hub_names_the_three_other_ways(lab: Lab) -> None:
    done = lab.run("train", *lab.dataset(), "backbone=resnet18", "tracking=none")
    message = done.complaint()
    for way in ("backbone=efficientnet_lite0", "backbone.weights=FILE.safetensors", "backbone.weights=none"):
        assert way in message


@pytest.fixture(scope="module")
def stopped(lab: Lab, trained: Trained) -> Trained:
    done = lab.train("trainer.max_epochs=1", *QUICK)
    return Trained(done, done.folder)


@pytest.fixture
def copy(stopped: Trained, tmp_path: Path) -> Path:
    """The stopped run's record alone."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("run.json", "split.csv", "config.yaml"):
        (folder / name).write_bytes((stopped.folder / name).read_bytes())
    return folder


def test_resuming_from_a_damaged_checkpoint(lab: Lab, copy: Path) -> None:
    (copy / "checkpoints").mkdir()
    (copy / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04 half a checkpoint")
    message = lab.run("train", f"resume={copy}", "tracking=none").complaint()
    assert "last.ckpt is not a checkpoint" in message


def test_resuming_a_run_that_is_not_there(lab: Lab, trained: Trained) -> None:
    assert "no run 0123456789abcdef" in lab.run("train", "resume=0123456789abcdef").complaint(2)


def test_resuming_with_another_learning_rate_is_refused_and_leaves_the_run_as_it_was(lab: Lab, copy: Path) -> None:
    before = {name: (copy / name).read_text() for name in ("run.json", "config.yaml")}
    message = lab.run("train", f"resume={copy}", "optimizer.lr=0.5", "tracking=none").complaint(2)
    assert "optimizer.lr was 0.0003, now it is 0.5; omit it or start a new run" in message
    assert {name: (copy / name).read_text() for name in before} == before


def test_resuming_goes_on_where_the_run_stopped(lab: Lab, stopped: Trained, client: Any) -> None:
    run_id = stopped.run_id
    done = lab.run("train", f"resume={stopped.folder}", "trainer.max_epochs=2")
    assert "resuming after epoch 1 of 2" in done.err
    assert done.folder == stopped.folder
    assert stopped.run_id == run_id
    assert stopped.metrics["training"]["epochs"] == 2
    assert [point.step for point in client.get_metric_history(run_id, "val/loss")] == [1, 2]
    assert "max_epochs: 2" in Path(client.download_artifacts(run_id, "config.yaml")).read_text()
    assert client.get_run(run_id).info.status == "FINISHED"
