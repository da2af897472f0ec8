from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from lungtl.data.bags import read_frames
from lungtl.data.store.reader import Store
from lungtl.models import bag_classifier, inference
from lungtl.models.inference import mean_prediction, mean_predictions, predict_and_embed, predict_bags
from lungtl.training.feature_cache import cached_features
from tests.models.tiny import tiny_classifier
from tests.stores import toy_store

CPU = torch.device("cpu")
LENGTHS = (4, 1, 7, 3)
ASKED = ["b02", "b00", "b01"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_predictions_do_not_depend_on_the_batch(store: Store, tmp_path: Path, cached: bool, batch_size: int) -> None:
    classifier = tiny_classifier()
    features = cached_features(classifier, store, tmp_path, CPU, "w") if cached else None
    classifier.train()  # it must not matter
    predictions = predict_bags(classifier, store, ASKED, features, CPU, batch_size)
    assert classifier.training
    assert predictions.bags["bag_id"].tolist() == ASKED
    assert predictions.bags["probability"].dtype == np.float64

    classifier.eval()
    rows = predictions.slices.groupby("bag_id", sort=False)
    assert list(rows.groups) == sorted(ASKED, key=ASKED.index)
    for bag_id, probability in zip(ASKED, predictions.bags["probability"], strict=True):
        voxels = store.voxels(bag_id)
        with torch.no_grad():
            output = classifier([read_frames(voxels, np.arange(len(voxels)), False)])
        logit = float(output.bag_logits[0])
        assert probability == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
        slices = rows.get_group(bag_id)
        assert slices["index"].tolist() == list(range(len(voxels)))
        assert slices["z_mm"].tolist() == [1.5 * i for i in range(len(voxels))]
        assert slices["label"].tolist() == store.slice_labels(bag_id).tolist()
        np.testing.assert_allclose(slices["weight"], output.weights[0].numpy(), atol=1e-6)
        assert slices["weight"].sum() == pytest.approx(1, abs=1e-6)
        odds = np.exp(output.slice_logits[0].double().numpy())
        np.testing.assert_allclose(
            slices[["p_non_nodule", "p_benign", "p_malignant"]], odds / odds.sum(axis=1, keepdims=True), atol=1e-6
        )


@pytest.mark.parametrize("cached", [True, False])
def test_long_bags_are_classified_by_themselves_and_no_scan_is_read_as_a_whole(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    asked = ["b02", "b00", "b01", "b03"]  # 7, 4, 1 and 3 slices
    classifier = tiny_classifier(chunk=4)
    features = cached_features(classifier, store, tmp_path, CPU, "w") if cached else None
    expected = predict_bags(classifier, store, asked, features, CPU)
    read: list[int] = []
    classified: list[list[int]] = []

    def noting_reads(voxels: Any, indices: Any, neighbours: bool) -> torch.Tensor:
        read.append(len(indices))
        return read_frames(voxels, indices, neighbours)

    def noting_rows(rows: list[torch.Tensor], classify: Any = classifier.classify) -> Any:
        classified.append([len(bag) for bag in rows])
        return classify(rows)

    monkeypatch.setattr(bag_classifier, "read_frames", noting_reads)
    monkeypatch.setattr(classifier, "classify", noting_rows)
    monkeypatch.setattr(inference, "most_slices", lambda *_: 5)
    found = predict_bags(classifier, store, asked, features, CPU)
    assert read == ([] if cached else [4, 3, 4, 1, 3])
    assert classified == [[7], [4, 1], [3]]
    assert found.bags["bag_id"].tolist() == asked
    np.testing.assert_allclose(found.bags["probability"], expected.bags["probability"], atol=1e-6)
    np.testing.assert_allclose(found.slices["weight"], expected.slices["weight"], atol=1e-6)


def test_probabilities_of_confident_logits_are_not_tied(store: Store) -> None:
    classifier = tiny_classifier()
    with torch.no_grad():
        classifier.aggregator.get_submodule("classifier").bias.fill_(25.0)  # type: ignore[operator]
    probabilities = predict_bags(classifier, store, ASKED, None, CPU).bags["probability"]
    assert probabilities.nunique() == 3
    assert (probabilities < 1).all()


def test_prediction_does_not_change_the_classifier(store: Store) -> None:
    classifier = tiny_classifier().train()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    first = predict_bags(classifier, store, ASKED, None, CPU)
    second = predict_bags(classifier, store, ASKED, None, CPU)
    assert all(torch.equal(before[key], value) for key, value in classifier.state_dict().items())
    assert first.bags.equals(second.bags)
    assert first.slices.equals(second.slices)


def test_slices_per_memory_limit(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = store.voxels(str(store.bags["bag_id"].iloc[0]))[0].nbytes
    monkeypatch.setattr(inference, "MOST_BYTES", 7 * one + 1)
    assert inference.most_slices(store, None, neighbours=False) == 7
    assert inference.most_slices(store, None, neighbours=True) == 2
    classifier = tiny_classifier()
    classifier.cut(2)  # wide maps
    features = cached_features(classifier, store, tmp_path, CPU, "w")
    assert features is not None
    monkeypatch.setattr(inference, "MOST_BYTES", 3 * 4 * classifier.split.width)
    assert inference.most_slices(store, features, neighbours=False) == 3
    monkeypatch.setattr(inference, "MOST_BYTES", 1)
    assert inference.most_slices(store, features, neighbours=False) == 1


@pytest.mark.parametrize("views_cached", [None, 1, 8])
def test_views_are_averaged_whatever_the_cache_has(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views_cached: int | None
) -> None:
    classifier = tiny_classifier()
    features = None
    if views_cached is not None:
        features = cached_features(classifier, store, tmp_path, CPU, "w", views_cached)
    classifier.views = 8
    computed: list[int] = []
    prefix = classifier.split.prefix

    def counted(images: torch.Tensor) -> torch.Tensor:
        computed.append(len(images))
        return prefix(images)

    monkeypatch.setattr(classifier.split, "prefix", counted)
    predictions = predict_bags(classifier, store, ASKED, features, CPU)
    assert sum(n for n in computed if n > 1) == (8 - (views_cached or 0)) * (4 + 1 + 7)
    for bag_id, probability in zip(ASKED, predictions.bags["probability"], strict=True):
        voxels = store.voxels(bag_id)
        seen = []
        for turns in range(4):
            turned = np.rot90(voxels, turns, axes=(1, 2))
            for image in (turned, np.flip(turned, axis=2)):
                with torch.no_grad():
                    output = classifier([torch.from_numpy(image.copy())[:, None]])
                seen.append((output.bag_logits.sigmoid().item(), output.weights[0].numpy()))
        assert probability == pytest.approx(np.mean([p for p, _ in seen]), abs=1e-6)
        weights = predictions.slices.loc[predictions.slices["bag_id"] == bag_id, "weight"]
        np.testing.assert_allclose(weights, np.mean([w for _, w in seen], axis=0), atol=1e-6)
        assert predict_and_embed(classifier, voxels)[0].probability == pytest.approx(probability, abs=1e-6)


def test_one_prediction_is_its_own_mean(store: Store) -> None:
    one = predict_and_embed(tiny_classifier(), store.voxels("b02"))[0]
    mean = mean_prediction([one])
    assert mean.probability == one.probability
    assert (mean.weights == one.weights).all()
    table = predict_bags(tiny_classifier(), store, ASKED, None, CPU)
    same = mean_predictions([table])
    pd.testing.assert_frame_equal(same.bags, table.bags)
    pd.testing.assert_frame_equal(same.slices, table.slices)
