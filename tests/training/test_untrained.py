from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from lungtl.bundle import FILES, UNTRAINED, load_bundle, load_untrained, save_bundle
from lungtl.data.cache_folder import CacheFolder
from lungtl.data.store.files import write_checksums
from lungtl.data.store.reader import Store
from lungtl.models.aggregators.attention import Attention
from lungtl.models.inference import predict_bags
from lungtl.settings import parts
from lungtl.settings.schema import TrainConfig
from lungtl.training.build import build_classifier
from lungtl.training.fit import seed_everything
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.untrained import (
    DRAWS,
    Untrained,
    draw_classifier,
    fixed_seed,
    train_untrained,
    untrained_weights,
)
from tests.models.tiny import WIDTH, tiny_classifier
from tests.stores import toy_store
from tests.training.test_fit import config_of, split_of

LENGTHS = (2, 3, 1, 4, 2, 3, 3, 2, 4, 1, 2, 3)
TEST = ["b08", "b09", "b10", "b11"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


def control(store: Store, config: TrainConfig) -> Untrained:
    trained = train_untrained(config, store, split_of(store), BagAndSliceLoss(), CPU)
    assert trained is not None
    return trained


def said(store: Store, trained: Untrained) -> pd.Series:
    bags = predict_bags(trained.classifier, store, TEST, trained.features, CPU).bags
    return bags.set_index("bag_id").loc[TEST, "probability"]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    return config_of(tmp_path_factory.mktemp("control"), max_epochs=2)


@pytest.fixture(scope="module")
def trained(store: Store, config: TrainConfig) -> Untrained:
    return control(store, config)


def test_the_same_settings_give_the_same_control(store: Store, config: TrainConfig, trained: Untrained) -> None:
    torch.rand(3)  # what was drawn before does not matter
    assert said(store, control(store, config)).equals(said(store, trained))


def test_runs_of_other_seeds_share_the_backbone_but_not_the_head(
    store: Store, config: TrainConfig, trained: Untrained
) -> None:
    other = control(store, config.model_copy(update={"seed": 1}))
    assert other.fingerprint == trained.fingerprint
    assert len(CacheFolder(config.data_dir).entries()) == 1
    drawn, before = other.classifier.projection.linear, trained.classifier.projection.linear
    assert drawn is not None
    assert before is not None
    assert not torch.equal(drawn.weight, before.weight)


def test_the_control_of_a_run_with_random_weights_is_not_that_run(
    store: Store, config: TrainConfig, trained: Untrained
) -> None:
    random = config.model_copy(update={"backbone": {**config.backbone, "weights": "none"}})
    seed_everything(config.seed)
    own = build_classifier(random, None).backbone.state_dict()
    drawn, fingerprint = draw_classifier(lambda: build_classifier(random, None))
    assert fingerprint == trained.fingerprint
    convolutions = [key for key, value in own.items() if value.ndim == 4]
    assert convolutions
    assert not any(torch.equal(own[key], drawn.backbone.state_dict()[key]) for key in convolutions)


def test_the_controls_backbone_is_always_frozen_and_random(
    store: Store, config: TrainConfig, trained: Untrained
) -> None:
    full = {parts.TARGET: "lungtl.models.freezing.full.Full"}
    image = config.image.model_copy(update={"augment": "dihedral"})
    weights = {**config.backbone, "weights": "nowhere.safetensors"}
    changed = config.model_copy(update={"freezing": full, "image": image, "backbone": weights})
    assert said(store, control(store, changed)).equals(said(store, trained))


def test_the_head_has_learned(config: TrainConfig, tmp_path: Path) -> None:
    larger = toy_store(tmp_path, [2] * 48)
    split = larger.bags[["bag_id", "patient_id"]].assign(label=larger.bags["bag_label"].astype(int))
    split["split"] = ["train"] * 32 + ["val"] * 8 + ["test"] * 8
    trainer = config.trainer.model_copy(update={"max_epochs": 10})
    config = config.model_copy(update={"trainer": trainer, "data_dir": tmp_path})
    trained = train_untrained(config, larger, split, BagAndSliceLoss(), CPU)
    assert trained is not None
    tested = split[split["split"] == "test"]
    found = predict_bags(trained.classifier, larger, list(tested["bag_id"]), trained.features, CPU).bags
    probabilities = found["probability"].to_numpy()
    # the bright square of the positive bags shows in random features too
    assert roc_auc_score(tested["label"], probabilities) == 1


def test_without_the_feature_cache_there_is_none(
    store: Store, config: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    cache = config.cache.model_copy(update={"enabled": False})
    with caplog.at_level(logging.WARNING):
        uncached = config.model_copy(update={"cache": cache})
        assert train_untrained(uncached, store, split_of(store), BagAndSliceLoss(), CPU) is None
    assert "cache.enabled=true" in caplog.text


def test_a_full_cache_does_not_stop_the_run(
    store: Store, config: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    cache = config.cache.model_copy(update={"max_gb": 1e-6})
    image = config.image.model_copy(update={"size": 64})  # features that are not there yet
    with caplog.at_level(logging.WARNING):
        full = config.model_copy(update={"cache": cache, "image": image})
        assert train_untrained(full, store, split_of(store), BagAndSliceLoss(), CPU) is None
    assert "no untrained control: the features of a random backbone exceed cache.max_gb=1e-06" in caplog.text


def test_a_diverging_control_does_not_stop_the_run(
    store: Store, config: TrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = {**config.optimizer, "lr": 1e30}
    with caplog.at_level(logging.WARNING):
        diverging = config.model_copy(update={"optimizer": optimizer})
        assert train_untrained(diverging, store, split_of(store), BagAndSliceLoss(), CPU) is None
    assert "no epoch is usable" in caplog.text


@pytest.fixture
def bundle(config: TrainConfig, trained: Untrained, tmp_path: Path) -> Path:
    model = tiny_classifier(aggregator=Attention(WIDTH))
    save_bundle(model, config.aggregator, tmp_path / "bundle", {}, "# card\n", untrained=trained)
    return tmp_path / "bundle"


def test_a_bundle_contains_the_control_without_its_backbone(
    store: Store, config: TrainConfig, trained: Untrained, tmp_path: Path
) -> None:
    model = tiny_classifier(aggregator=Attention(WIDTH))
    model.preprocessor = trained.classifier.preprocessor
    save_bundle(model, config.aggregator, tmp_path, {}, "# card\n", untrained=trained)
    assert not [key for key in load_file(tmp_path / UNTRAINED) if key.startswith("backbone")]
    found = load_untrained(tmp_path, load_bundle(tmp_path)[1])
    assert found is not None
    loaded, fingerprint = found
    assert fingerprint == trained.fingerprint
    assert not any(module.training for module in loaded.modules())
    again = predict_bags(loaded, store, TEST, None, CPU).bags.set_index("bag_id").loc[TEST, "probability"]
    assert again.to_numpy() == pytest.approx(said(store, trained).to_numpy(), abs=1e-6)


def test_no_control_if_the_random_backbone_cannot_be_reproduced(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(load_file(bundle / UNTRAINED), bundle / UNTRAINED, {"backbone": "another"})
    write_checksums(bundle, FILES)
    with caplog.at_level(logging.WARNING):
        assert load_untrained(bundle, load_bundle(bundle)[1]) is None
    assert "draws a different random backbone" in caplog.text


def test_a_bundle_may_have_no_control(bundle: Path) -> None:
    with safe_open(bundle / UNTRAINED, "pt") as file:
        assert file.metadata()["backbone"]
    (bundle / UNTRAINED).unlink()
    write_checksums(bundle, FILES)
    assert load_untrained(bundle, load_bundle(bundle)[1]) is None


def test_the_random_state_is_restored() -> None:
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    with fixed_seed():
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with fixed_seed():
        assert torch.equal(torch.rand(2), first)


def test_the_untrained_aggregator_sees_the_trained_embeddings(store: Store) -> None:
    spec = {parts.TARGET: "lungtl.models.aggregators.attention.Attention", "hidden": 8}
    classifier = tiny_classifier(seed=3)
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    found = untrained_weights(classifier, spec, store, ["b03", "b05"], None, CPU)
    assert not any(module.training for module in classifier.modules())
    assert found["bag_id"].tolist() == ["b03"] * 4 + ["b05"] * 3
    frames = torch.from_numpy(store.voxels("b05").copy())[:, None]
    with fixed_seed():
        fresh = [Attention(WIDTH, hidden=8) for _ in range(DRAWS)]
    own = found[found["bag_id"] == "b05"]
    with torch.no_grad():
        h = classifier.projection(classifier.embed(frames))
        for k, aggregator in enumerate(fresh):
            weights = torch.softmax(aggregator.attention(h).squeeze(-1), dim=0)
            assert own[f"weight_{k}"].to_numpy() == pytest.approx(weights.numpy(), abs=1e-6)
    assert not own["weight_0"].equals(own["weight_1"])
    assert all(torch.equal(value, before[key]) for key, value in classifier.state_dict().items())


def test_untrained_weights_are_computed_without_dropout(store: Store) -> None:
    spec = {parts.TARGET: "lungtl.models.aggregators.transformer.Transformer", "dropout": 0.5}
    first, again = (untrained_weights(tiny_classifier(), spec, store, ["b03", "b01"], None, CPU) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert first.groupby("bag_id").sum(numeric_only=True).drop(columns="index").to_numpy() == pytest.approx(1)
