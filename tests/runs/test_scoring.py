"""From a trained network to its results, in this process, on a tiny store."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from pydantic import ValidationError
from sklearn.metrics import brier_score_loss, roc_auc_score

from lungtl.bundle import load_bundle, load_probe, load_untrained
from lungtl.data.store.reader import Store
from lungtl.evaluation.chosen import FILE, choose, read_chosen
from lungtl.evaluation.controls import fit_controls
from lungtl.evaluation.figures import attention_along_z
from lungtl.models.inference import pool_bags
from lungtl.runs.folder import VALIDATION
from lungtl.runs.scored_model import controls_of
from lungtl.runs.scoring import slices_trained
from lungtl.settings import parts
from lungtl.settings.schema import TrainConfig
from lungtl.training.losses import BagAndSliceLoss
from tests.documents import check_document
from tests.runs.scored import Recorded, drawn_or_not, finished, scored_features, split_of
from tests.stores import toy_store
from tests.training.test_fit import config_of

TEST = [f"b{i:02d}" for i in range(12, 20)]
CONTROLS = {"prevalence", "diameter", "untrained", "probe"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), [3, 4, 2, 5] * 5)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    config = config_of(tmp_path_factory.mktemp("runs"), max_epochs=2)
    return config.model_copy(update={"backbone": {**config.backbone, "weights": "none"}})


@pytest.fixture(scope="module")
def done(config: TrainConfig, store: Store) -> tuple[dict[str, Any], Path, Recorded]:
    return finished(config, store, split_of(store), "first")


def test_metrics_json_follows_the_schema_and_is_what_the_tracker_gets(
    done: tuple[dict[str, Any], Path, Recorded],
) -> None:
    document, folder, tracker = done
    assert json.loads((folder / "metrics.json").read_text()) == document
    check_document(document)
    assert tracker.numbers["test_auroc"] == document["bag"]["metrics"]["auroc"]["value"]
    assert 0 <= tracker.numbers["test_auroc_untrained"] <= 1
    assert tracker.numbers["trainable_parameters"] == 7
    assert tracker.numbers["best_epoch"] == 0
    validation = pd.read_csv(folder / VALIDATION)
    expected = roc_auc_score(validation["label"], validation["probability"])
    assert tracker.numbers["best_val_auroc"] == pytest.approx(expected)
    assert {FILE, VALIDATION, "metrics.json", "predictions.csv", "slices.csv", "bundle"} <= tracker.files


def test_controls_are_scored_on_the_same_bags(done: tuple[dict[str, Any], Path, Recorded]) -> None:
    document, _, _ = done
    assert set(document["controls"]) == set(document["gains"]) == CONTROLS
    for table in (document["bag"], *document["controls"].values()):
        assert (table["n"], table["n_patients"], table["n_positive"]) == (8, 8, 4)
    localised = document["localisation"]
    assert (localised["n"], localised["n_nodule_slices"]) == (4, 4)  # the positive bags, one bright slice each
    assert set(localised["rules"]) == {"model", "uniform", "centre", "untrained"}
    assert localised["rules"]["uniform"]["share"]["value"] == pytest.approx(1 / 4 * 2 / 4 + 1 / 5 * 2 / 4)


def test_the_bundle_keeps_the_controls_for_when_its_run_is_gone(
    store: Store, done: tuple[dict[str, Any], Path, Recorded]
) -> None:
    document, folder, _ = done
    config = load_bundle(folder / "bundle")[1]
    split = split_of(store)
    test = split[split["split"] == "test"]
    alone, beside = controls_of(config, None), controls_of(config, split)
    assert alone is not None
    assert alone == beside == fit_controls(split[split["split"] == "train"])
    assert (alone.n, alone.prevalence) == (8, 0.5)
    said = alone.predict(test)
    for name in ("prevalence", "diameter"):
        expected = document["controls"][name]["metrics"]["brier"]["value"]
        assert brier_score_loss(test["label"], said[name]) == pytest.approx(expected)
    probe, features = load_probe(folder / "bundle"), scored_features(store, folder)
    assert probe is not None
    predicted = pd.read_csv(folder / "predictions.csv").set_index("bag_id")["control_probe"]
    pooled = pool_bags(load_bundle(folder / "bundle")[0], store, TEST, features, torch.device("cpu"))
    np.testing.assert_allclose(probe.predict(pooled), predicted[TEST], rtol=1e-6)
    del config["controls"]  # as version 0.1.0 wrote it
    assert controls_of(config, None) is None


def test_calibration_and_thresholds_come_from_the_validation_bags_alone(
    config: TrainConfig, store: Store, done: tuple[dict[str, Any], Path, Recorded]
) -> None:
    _, folder, _ = done
    validation = pd.read_csv(folder / VALIDATION)
    assert validation["bag_id"].tolist() == ["b08", "b09", "b10", "b11"]
    chosen = read_chosen(folder)
    assert chosen == choose(validation, "platt")
    assert read_chosen(folder / "bundle") == chosen

    split = split_of(store)
    tested = split["split"] == "test"
    flipped = split.assign(label=split["label"].where(~tested, 1 - split["label"]))
    document, other, _ = finished(config, store, flipped, "flipped")
    assert document["bag"]["metrics"]["auroc"] != done[0]["bag"]["metrics"]["auroc"]
    for name in (FILE, VALIDATION, "slices.csv"):
        assert (other / name).read_bytes() == (folder / name).read_bytes()
    columns = ["bag_id", "probability", "calibrated"]
    pd.testing.assert_frame_equal(
        pd.read_csv(other / "predictions.csv")[columns], pd.read_csv(folder / "predictions.csv")[columns]
    )

    shifted = split.assign(label=split["label"].where(split["split"] != "val", 1 - split["label"]))
    finished(config, store, shifted, "shifted")
    assert read_chosen(config.data_dir / "shifted") != chosen  # while the validation labels do decide


def test_the_calibrated_column_is_the_chosen_map(config: TrainConfig, store: Store) -> None:
    settings = config.evaluation.model_copy(update={"calibration": "isotonic", "untrained": False})
    _, folder, _ = finished(config.model_copy(update={"evaluation": settings}), store, split_of(store), "isotonic")
    table = pd.read_csv(folder / "predictions.csv")
    assert sorted(table["bag_id"]) == TEST
    chosen = read_chosen(folder)
    assert chosen is not None
    assert table["calibrated"].to_numpy() == pytest.approx(chosen.isotonic.apply(table["probability"]))


def test_without_a_map_the_calibrated_column_is_empty(done: tuple[dict[str, Any], Path, Recorded]) -> None:
    chosen = read_chosen(done[1])
    assert chosen is not None
    assert (chosen.kind, chosen.platt.kind) == ("platt", "none")  # it could not be fitted
    assert pd.read_csv(done[1] / "predictions.csv")["calibrated"].isna().all()


P_COLUMNS = ["p_non_nodule", "p_benign", "p_malignant"]


def test_a_slice_head_that_nothing_trained_says_nothing(
    config: TrainConfig, store: Store, done: tuple[dict[str, Any], Path, Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    panels: list[Any] = []

    def drawn(z: Any, weights: Any, probabilities: Any, *further: Any) -> Figure:
        panels.append(probabilities)
        return attention_along_z(z, weights, probabilities, *further)

    monkeypatch.setattr("lungtl.runs.figures.attention_along_z", drawn)
    document, folder, tracker = finished(
        drawn_or_not(config, True), store, split_of(store), "bag_only", loss=BagAndSliceLoss(slice_weight=0)
    )
    assert document["slice"] is None
    assert not [name for name in tracker.numbers if "/slice/" in name]
    slices, expected = (pd.read_csv(one / "slices.csv") for one in (folder, done[1]))
    assert list(slices) == list(expected)
    assert slices[P_COLUMNS].isna().all().all()
    pd.testing.assert_frame_equal(slices.drop(columns=P_COLUMNS), expected.drop(columns=P_COLUMNS))
    assert panels
    assert all(probabilities is None for probabilities in panels)
    assert load_bundle(folder / "bundle")[1]["slices_trained"] is False
    assert document["bag"] == done[0]["bag"]


def test_a_slice_head_is_trained_by_its_own_loss_or_by_the_bags_through_it(
    config: TrainConfig, store: Store, done: tuple[dict[str, Any], Path, Recorded], tmp_path: Path
) -> None:
    assert done[0]["slice"]["n"] == sum(store.bags.set_index("bag_id").loc[TEST, "n_slices"])
    by_max = {parts.TARGET: "lungtl.models.aggregators.max.Max", "level": "instance"}
    for aggregator, weight, labels, expected in (
        (config.aggregator, 0.5, [0, 2], True),
        (config.aggregator, 0.5, [-1, -1], False),  # nothing to learn from
        (config.aggregator, 0.0, [0, 2], False),
        (by_max, 0.0, [-1, -1], True),
    ):
        labelled: Any = SimpleNamespace(slice_labels=lambda bag_id, labels=labels: np.array(labels))
        trained: Any = SimpleNamespace(
            classifier=SimpleNamespace(aggregator=parts.build(aggregator, dim=4)),
            loss=BagAndSliceLoss(slice_weight=weight),
        )
        assert slices_trained(labelled, split_of(store), trained) is expected


def test_a_document_that_breaks_the_schema_is_not_written(
    config: TrainConfig, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lungtl.evaluation.assess.localise", lambda *_, **__: "nowhere")
    with pytest.raises(ValidationError, match="localisation"):
        finished(config, store, split_of(store), "broken")
    assert not (config.data_dir / "broken" / "metrics.json").exists()


def test_the_same_without_the_feature_cache_but_for_the_controls_that_need_it(
    config: TrainConfig, store: Store, done: tuple[dict[str, Any], Path, Recorded]
) -> None:
    cache = config.cache.model_copy(update={"enabled": False})
    document, _, _ = finished(config.model_copy(update={"cache": cache}), store, split_of(store), "uncached", False)
    expected = json.loads(json.dumps(done[0]))
    for name in ("untrained", "probe"):
        del expected["controls"][name], expected["gains"][name]
    for part in (document, expected):
        del part["run"]
    assert _rounded(document) == _rounded(expected)


def test_a_run_may_leave_its_own_controls_out(config: TrainConfig, store: Store) -> None:
    settings = config.evaluation.model_copy(update={"untrained": False, "probe": False})
    document, folder, _ = finished(
        config.model_copy(update={"evaluation": settings}), store, split_of(store), "without"
    )
    assert set(document["controls"]) == CONTROLS - {"untrained", "probe"}
    assert load_untrained(folder / "bundle", load_bundle(folder / "bundle")[1]) is None
    assert load_probe(folder / "bundle") is None


def test_a_run_may_leave_its_figures_out(config: TrainConfig, store: Store) -> None:
    for drawn in (True, False):
        name = f"figures {drawn}"
        _, folder, tracker = finished(drawn_or_not(config, drawn), store, split_of(store), name)
        assert (folder / "figures" / "roc.png").is_file() == drawn
        assert ("figures" in tracker.files) == drawn
        assert "metrics.json" in tracker.files


def test_the_card_shows_controls_operating_points_and_weights(done: tuple[dict[str, Any], Path, Recorded]) -> None:
    card = (done[1] / "bundle" / "card.md").read_text()
    for line in (
        "| metric | model | prevalence | diameter | untrained | probe |",
        "| chosen on validation for | threshold | sensitivity | specificity | ppv | npv |",
        "| slices by weight | model | uniform | centre | untrained | model minus centre | model minus untrained |",
    ):
        assert f"{line}\n| --- |" in card


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_rounded(child) for child in value]
    return round(value, 4) if isinstance(value, float) else value
