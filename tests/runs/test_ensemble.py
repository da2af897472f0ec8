"""Several runs as one model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lungtl.bundle import save_bundle
from lungtl.data.splits import read_split, save_split
from lungtl.data.store.reader import Store
from lungtl.evaluation.chosen import choose, write_chosen
from lungtl.evaluation.controls import fit_controls
from lungtl.evaluation.covariates import WITH_COVARIATES, Regression
from lungtl.evaluation.document import evaluation_document
from lungtl.evaluation.metrics import score
from lungtl.models.aggregators.gated_attention import GatedAttention
from lungtl.runs.ensemble import mean_over_members, merge_splits, write_ensemble
from lungtl.runs.folder import METRICS, SPLIT, VALIDATION, find_model, write_record
from lungtl.runs.model import Model
from lungtl.runs.scored_bags import choose_bags
from lungtl.runs.scored_model import scored_on
from lungtl.runs.scoring import write_results
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sources.base import sha256
from tests.models.tiny import WIDTH, tiny_classifier
from tests.stores import toy_store

GATED = {"_target_": "lungtl.models.aggregators.gated_attention.GatedAttention", "hidden": 5}
FOLDS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), [2] * 12)


def fold_split(store: Store, fold: int) -> pd.DataFrame:
    """Of twelve patients, four are tested, four validated and four train."""
    part = (np.arange(12) // 4 - fold) % FOLDS
    labels = store.bags["bag_label"].astype(int)
    table = store.bags[["bag_id", "patient_id"]].assign(diameter_mm=5.0 + labels, label=labels)
    return table.assign(split=np.array(["test", "val", "train"])[part])


def run_folder(folder: Path, store: Store, fold: int) -> Path:
    """A finished run: the files that an ensemble is made of."""
    folder.mkdir()
    split = fold_split(store, fold)
    save_split(split, folder / SPLIT)
    record: dict[str, Any] = {
        "name": f"fold {fold}", "mlflow_run_id": None, "choices": {}, "store": store.name, "value_range": None,
        "crop": "none", "store_fingerprint": store.fingerprint, "split_sha256": sha256(folder / SPLIT),
    }  # fmt: skip
    write_record(folder, record)
    validated = split[split["split"] == "val"].assign(probability=np.linspace(0.2, 0.7, 4) + 0.05 * fold)
    validated[["bag_id", "patient_id", "label", "probability", "split"]].to_csv(folder / VALIDATION, index=False)
    chosen = choose(validated, "platt")
    write_chosen(chosen, folder)
    table = score(split["label"], np.full(12, 0.5), split["patient_id"], resamples=0)
    (folder / METRICS).write_text(json.dumps(evaluation_document(split="test", bag=table)))
    classifier = tiny_classifier(seed=fold, aggregator=GatedAttention(WIDTH, 5))
    controls = fit_controls(split[split["split"] == "train"])
    covariates = Regression(("logit", "diameter"), (1.0, 0.1 + fold), -0.5, 4)
    save_bundle(classifier, GATED, folder / "bundle", record, "# card\n", chosen, controls=controls,
                covariates=covariates)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def runs(store: Store, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [run_folder(folder / str(fold), store, fold) for fold in range(FOLDS)]


@pytest.fixture(scope="module")
def ensemble(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_ensemble(runs, folder, "three folds", "an id")
    return folder


def evaluation(folder: Path) -> Any:
    cache = SimpleNamespace(enabled=True, max_gb=1)
    return SimpleNamespace(untrained=True, trust=None, heatmaps=True, cache=cache, data_dir=folder)


def test_it_predicts_the_mean_of_its_members(ensemble: Path, runs: list[Path], store: Store) -> None:
    model = Model.open(ensemble)
    voxels = store.voxels("b03")
    members = [Model.open(run).predict_voxels(voxels) for run in runs]
    probabilities = [member.probability for member in members]
    assert len(set(probabilities)) == FOLDS
    found = model.predict_voxels(voxels)
    assert found.probability == pytest.approx(np.mean(probabilities), abs=1e-9)
    for column in ("weight", "p_non_nodule", "p_benign", "p_malignant"):
        np.testing.assert_allclose(found.slices[column], np.mean([m.slices[column] for m in members], axis=0))
    assert found.slices["weight"].sum() == pytest.approx(1)


def test_one_calibration_from_all_validation_predictions(ensemble: Path, runs: list[Path]) -> None:
    model = Model.open(ensemble)
    pooled = pd.concat([pd.read_csv(run / VALIDATION) for run in runs]).sort_values("bag_id")
    assert len(pooled) == 12  # every bag was validated once
    expected = choose(pooled, "platt")
    assert model.chosen is not None
    assert model.chosen.n == expected.n == 12
    assert model.chosen.platt.slope == pytest.approx(expected.platt.slope)
    assert model.chosen.thresholds == expected.thresholds


def test_bags_that_several_members_validated_count_once() -> None:
    one, two = (
        pd.DataFrame({"bag_id": ["a", "b"], "patient_id": ["p", "q"], "label": [0, 1], "probability": p})
        for p in ([0.2, 0.6], [0.4, 0.8])
    )
    mean = mean_over_members([one, two])
    assert mean["bag_id"].tolist() == ["a", "b"]
    assert mean["probability"].tolist() == pytest.approx([0.3, 0.7])


def test_a_patient_counts_as_what_any_member_used_him_for() -> None:
    ids = {"bag_id": list("abc"), "patient_id": ["p", "q", "r"], "diameter_mm": [1.0, 2.0, 3.0], "label": [0, 1, 0]}
    first = pd.DataFrame({**ids, "split": ["train", "val", "test"]})
    second = pd.DataFrame({**ids, "split": ["test", "test", "test"]})
    assert merge_splits([second, first])["split"].tolist() == ["train", "val", "test"]
    only_second = pd.DataFrame({"bag_id": ["d"], "patient_id": ["p"], "diameter_mm": [4.0], "label": [1],
                                "split": ["val"]})  # fmt: skip
    assert merge_splits([first, only_second]).set_index("bag_id")["split"]["d"] == "train"
    unlabelled = only_second.assign(patient_id="r", label=-1, split="extra")  # r trains by readers' votes
    merged = merge_splits([first, pd.concat([second, unlabelled])]).set_index("bag_id")["split"]
    assert merged[["c", "d"]].tolist() == ["train", "extra"]


def test_evaluation_writes_the_mean_next_to_the_mean_control(
    ensemble: Path, runs: list[Path], store: Store, tmp_path: Path
) -> None:
    config = evaluation(tmp_path)
    bags, trained_with, *_ = choose_bags(ensemble, store, "all")
    bags = bags.assign(diameter_mm=np.arange(12.0))
    assert trained_with is not None
    assert set(trained_with["split"]) == {"train"}
    scored = scored_on(store, Model.open(ensemble), trained_with, config)
    assert scored.controls == fit_controls(trained_with)
    assert scored.controls.n == 12
    assert not scored.heatmaps
    document = write_results(tmp_path / "all", store, scored, bags, "all", resamples=10, figures=False)
    alone = [
        write_results(tmp_path / run.name, store, scored_on(store, Model.open(run), trained_with, config), bags, "all",
                      resamples=10, figures=False)
        for run in runs
    ]  # fmt: skip
    assert document["localisation"].keys() == alone[0]["localisation"].keys()
    tables = [pd.read_csv(tmp_path / run.name / "predictions.csv") for run in runs]
    found = pd.read_csv(tmp_path / "all" / "predictions.csv")
    for column in ("probability", WITH_COVARIATES):
        assert tables[0][column].nunique() > 1
        np.testing.assert_allclose(found[column], np.mean([table[column] for table in tables], axis=0))
    np.testing.assert_allclose(found["calibrated"], scored.chosen.calibrated(found["probability"]))  # type: ignore[union-attr, arg-type]


def test_its_own_patients_are_no_test(ensemble: Path, store: Store) -> None:
    with pytest.raises(UsageError, match=r"every patient of .* trained a member of this ensemble"):
        choose_bags(ensemble, store, "auto")


def test_it_is_found_by_its_folder_or_its_bundle(ensemble: Path, tmp_path: Path) -> None:
    assert find_model(str(ensemble), tmp_path) == ensemble.resolve()
    assert find_model(str(ensemble / "bundle"), tmp_path) == (ensemble / "bundle").resolve()
    moved = shutil.copytree(ensemble / "bundle", tmp_path / "moved")
    assert len(Model.open(moved).members) == FOLDS
    assert read_split(ensemble / SPLIT)["split"].tolist() == ["train"] * 12


def test_writing_it_again_replaces_it(ensemble: Path, runs: list[Path], tmp_path: Path) -> None:
    for members in (3, 2):
        write_ensemble(runs[:members], tmp_path, "again")
        assert len(Model.open(tmp_path).members) == members
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "split.csv"]


@pytest.mark.parametrize(("key", "value"), [("store_fingerprint", "x"), ("value_range", [0, 255]), ("crop", "lungs")])
def test_members_of_different_data_are_refused(runs: list[Path], tmp_path: Path, key: str, value: Any) -> None:
    other = Path(shutil.copytree(runs[1], tmp_path / "other"))
    record = json.loads((other / "run.json").read_text())
    write_record(other, {**record, key: value})
    with pytest.raises(LungtlError, match=f"has {key} .* must be trained on the same prepared dataset"):
        write_ensemble([runs[0], other], tmp_path / "ensemble", "no")
    assert not (tmp_path / "ensemble").exists()


def test_one_run_or_an_unfinished_one_makes_no_ensemble(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(LungtlError, match="expected at least 2"):
        write_ensemble(runs[:1], tmp_path, "no")
    other = Path(shutil.copytree(runs[1], tmp_path / "other"))
    shutil.rmtree(other / "bundle")
    with pytest.raises(LungtlError, match="has no bundle because it did not finish"):
        write_ensemble([runs[0], other], tmp_path, "no")


@pytest.mark.parametrize("content", ["{", "{}", '{"members": 3, "format": 1}', '{"members": 9, "format": 2}'])
def test_a_damaged_ensemble(ensemble: Path, tmp_path: Path, content: str) -> None:
    bundle = Path(shutil.copytree(ensemble / "bundle", tmp_path / "bundle"))
    (bundle / "config.json").write_text(content)
    with pytest.raises(LungtlError) as error:
        Model.open(bundle)
    assert "\n" not in str(error.value)
    assert str(bundle) in str(error.value)
