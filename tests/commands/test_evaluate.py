from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.commands.conftest import N_SERIES, Done, Lab, Trained, read_csv, read_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def evaluated(lab: Lab, trained: Trained) -> Done:
    return lab.run("evaluate", f"model={trained.folder}", *lab.dataset())


def test_a_run_on_its_own_dataset_gives_the_numbers_of_training(evaluated: Done, trained: Trained) -> None:
    assert evaluated.folder != trained.folder
    document = read_json(evaluated.folder / "metrics.json")
    assert document["split"] == "test"
    assert document["bag"] == trained.metrics["bag"]
    assert document["controls"] == trained.metrics["controls"]
    assert document["training_patients"] == 0
    again, before = (
        {row["bag_id"]: float(row["probability"]) for row in read_csv(folder / "predictions.csv")}
        for folder in (evaluated.folder, trained.folder)
    )
    assert again == pytest.approx(before, abs=1e-6)


def test_it_writes_the_same_files_as_training(evaluated: Done, trained: Trained) -> None:
    for name in ("predictions.csv", "slices.csv"):
        assert list(read_csv(evaluated.folder / name)[0]) == list(read_csv(trained.folder / name)[0])
    assert (evaluated.folder / "figures" / "roc.png").is_file()


def test_all_bags_by_the_start_of_the_mlflow_id(scored: Done) -> None:
    document = read_json(scored.folder / "metrics.json")
    assert (document["split"], document["bag"]["n"]) == ("all", N_SERIES)
    assert document["training_patients"] > 0
    assert "scores are too good" in scored.err


def test_a_bundle_without_its_run_scores_one_class_as_undefined(lab: Lab, trained: Trained, tmp_path: Path) -> None:
    bundle = tmp_path / "model"
    shutil.copytree(trained.folder / "bundle", bundle)
    table = lab.table("benign.csv", lab.rows([0, 2, 4, 6]))
    done = lab.run("evaluate", f"model={bundle}", *lab.dataset(table))
    document = read_json(done.folder / "metrics.json")
    assert document["bag"]["n"] == 4
    metrics = document["bag"]["metrics"]
    for name in ("auroc", "auprc", "sensitivity"):
        assert metrics[name]["value"] is None
        assert metrics[name]["undefined"]
    assert math.isfinite(metrics["brier"]["value"])
    assert "undefined" in done.err
    assert document["controls"] == {}  # who trained the model is not known


def test_grey_values_for_a_model_of_hu(lab: Lab, trained: Trained, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "crops.npz", images=images)
    lines = ["id,patient_id,label", *(f"c{i},q{i},{i % 2}" for i in range(4))]
    (tmp_path / "crops.csv").write_text("\n".join(lines))
    files = [f"dataset.images={tmp_path / 'crops.npz'}", f"dataset.table={tmp_path / 'crops.csv'}"]
    done = lab.run("evaluate", f"model={trained.folder}", "dataset=arrays", "+dataset.hu=false", *files)
    message = done.complaint()
    assert "trained on HU" in message
    assert "grey values" in message


def test_a_damaged_bundle(lab: Lab, trained: Trained, tmp_path: Path) -> None:
    bundle = tmp_path / "model"
    shutil.copytree(trained.folder / "bundle", bundle)
    weights = bundle / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "damaged bundle" in lab.run("evaluate", f"model={bundle}", *lab.dataset()).complaint()


def test_a_model_that_is_not_there(lab: Lab, trained: Trained) -> None:
    assert "no run 0123456789" in lab.run("evaluate", "model=0123456789", *lab.dataset()).complaint(2)
