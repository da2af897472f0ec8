from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands.conftest import N_SERIES, Done, Lab, Trained, read_csv, read_json
from tests.documents import check_document

pytestmark = pytest.mark.slow
QUICK = ["tracking=none", "heatmaps=false", "resamples=50"]


@pytest.fixture(scope="module")
def evaluated(lab: Lab, trained: Trained) -> Done:
    return lab.run("evaluate", f"model={trained.folder}", "tracking=none", "heatmaps=false", *lab.dataset())


def test_a_run_on_its_own_dataset_gives_the_numbers_of_training(evaluated: Done, trained: Trained) -> None:
    assert evaluated.folder != trained.folder
    document = read_json(evaluated.folder / "metrics.json")
    assert document["split"] == "test"
    assert document["bag"] == trained.metrics["bag"]
    for part in ("controls", "gains", "calibrated", "chosen", "operating_points", "subgroups"):
        assert document[part] == trained.metrics[part], part
    assert set(document["controls"]) == {"prevalence", "untrained", "probe"}
    check_document(document)
    assert (document["training_patients"], document["validation_patients"]) == (0, 0)
    assert document["model"] == trained.run_id
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
    assert "scores are too optimistic" in scored.err
    assert document["validation_patients"] > 0
    assert "chose the epoch and thresholds" in scored.err
    assert document["operating_points"]  # most of the bags did not choose them


def test_the_validation_bags_are_not_judged_by_what_they_chose(lab: Lab, trained: Trained) -> None:
    done = lab.run("evaluate", f"model={trained.folder}", "split=val", *QUICK, *lab.dataset())
    document = read_json(done.folder / "metrics.json")
    assert document["validation_patients"] == document["bag"]["n_patients"]
    assert document["calibrated"] == document["operating_points"] == {}
    assert document["chosen"] == trained.metrics["chosen"]
    check_document(document)


def test_mlflow_has_the_evaluation_as_a_run_of_its_own(scored: Done, trained: Trained, client: Any) -> None:
    experiment = client.get_run(trained.run_id).info.experiment_id
    (run,) = client.search_runs([experiment], f"tags.`lungtl.folder` = '{scored.folder}'")
    assert run.info.status == "FINISHED"
    assert run.data.tags["lungtl.kind"] == "evaluation"
    assert run.data.tags["lungtl.model"] == trained.run_id
    assert run.data.params["split"] == "all"
    assert run.data.params["model"] == trained.run_id
    document = read_json(scored.folder / "metrics.json")
    assert run.data.metrics["all_auroc"] == document["bag"]["metrics"]["auroc"]["value"]
    assert 0 <= run.data.metrics["all_auroc_untrained"] <= 1
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {
        "metrics.json", "summary.txt", "predictions.csv", "slices.csv", "figures",
    }  # fmt: skip


def test_a_bundle_without_its_run_scores_one_class_as_undefined(lab: Lab, trained: Trained, tmp_path: Path) -> None:
    bundle = tmp_path / "model"
    shutil.copytree(trained.folder / "bundle", bundle)
    table = lab.table("benign.csv", lab.rows([0, 2, 4, 6]))
    done = lab.run("evaluate", f"model={bundle}", *QUICK, "split=all", *lab.dataset(table))
    document = read_json(done.folder / "metrics.json")
    assert document["bag"]["n"] == 4
    assert document["training_patients"] > 0  # known by their voxels
    assert "trained the model, so scores are too optimistic" in done.err
    metrics = document["bag"]["metrics"]
    for name in ("auroc", "auprc", "sensitivity"):
        assert metrics[name]["value"] is None
        assert metrics[name]["undefined"]
    assert math.isfinite(metrics["brier"]["value"])
    assert "undefined" in done.err
    assert set(document["controls"]) == {
        "prevalence",
        "untrained",
        "probe",
    }  # of its training bags, as the bundle keeps it
    share = read_json(bundle / "config.json")["controls"]["prevalence"]
    assert document["controls"]["prevalence"]["metrics"]["brier"]["value"] == pytest.approx(share**2)  # all negative
    assert document["chosen"] == trained.metrics["chosen"]
    check_document(document)


def test_grey_values_for_a_model_of_hu(lab: Lab, trained: Trained, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "crops.npz", images=images)
    lines = ["id,patient_id,label", *(f"c{i},q{i},{i % 2}" for i in range(4))]
    (tmp_path / "crops.csv").write_text("\n".join(lines))
    files = [f"dataset.images={tmp_path / 'crops.npz'}", f"dataset.table={tmp_path / 'crops.csv'}"]
    done = lab.run("evaluate", f"model={trained.folder}", "dataset=arrays", "dataset.hu=false", *files)
    message = done.complaint()
    assert "trained on HU" in message
    assert "grey values" in message


def test_a_damaged_bundle(lab: Lab, trained: Trained, tmp_path: Path) -> None:
    bundle = tmp_path / "model"
    shutil.copytree(trained.folder / "bundle", bundle)
    weights = bundle / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors was altered" in lab.run("evaluate", f"model={bundle}", *lab.dataset()).complaint()


def test_a_model_that_is_not_there(lab: Lab, trained: Trained) -> None:
    assert "no run 0123456789" in lab.run("evaluate", "model=0123456789", *lab.dataset()).complaint(2)


def test_a_bundle_of_an_earlier_version_has_neither_calibration_nor_control(
    lab: Lab, trained: Trained, tmp_path: Path
) -> None:
    bundle = tmp_path / "model"
    shutil.copytree(trained.folder / "bundle", bundle)
    (bundle / "calibration.json").unlink()
    (bundle / "untrained.safetensors").unlink()
    (bundle / "probe.safetensors").unlink()
    (bundle / "SHA256SUMS").unlink()
    (bundle / "seen.json").unlink()
    config = read_json(bundle / "config.json")
    del config["controls"]
    (bundle / "config.json").write_text(json.dumps(config))
    done = lab.run("evaluate", f"model={bundle}", *QUICK, *lab.dataset())
    document = read_json(done.folder / "metrics.json")
    assert "no calibration.json" in done.err
    assert document["chosen"] is None
    assert document["controls"] == document["calibrated"] == document["operating_points"] == {}
    check_document(document)
    assert {row["calibrated"] for row in read_csv(done.folder / "predictions.csv")} == {""}
