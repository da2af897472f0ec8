"""A run with the feature cache and the same run without it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lungtl.data.bags import Batch, Features
from lungtl.data.store.reader import Store
from lungtl.models.backbones.split import CannotSplit
from lungtl.models.bag_classifier import BagClassifier, BagOutput
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.full import Full
from lungtl.models.freezing.last_blocks import LastBlocks
from lungtl.models.inference import predict_bags
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import TrainConfig
from lungtl.training.build import build_classifier
from lungtl.training.callbacks import LogMetrics
from lungtl.training.datamodule import BagDataModule
from lungtl.training.feature_cache import run_features
from lungtl.training.fit import fit, seed_everything
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from tests.models.tiny import sgd
from tests.stores import toy_store
from tests.training.test_fit import config_of, split_of

CPU = torch.device("cpu")
LENGTHS = (2, 5, 3, 4, 2, 3, 6, 2, 4, 3, 2, 3)
TEST = [f"b{i:02d}" for i in range(8, 12)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


@dataclass(frozen=True)
class Ran:
    """What a run leaves: whether it was cached, the logits of its training steps, predictions, its network."""

    features: Features | None
    logits: Tensor
    probabilities: Tensor
    auroc: float
    state: dict[str, Tensor]
    classifier: BagClassifier


class Recorded(BagModule):
    """Keeps the logits of every training step."""

    steps: list[Tensor]

    def forward(self, batch: Batch) -> BagOutput:
        output = super().forward(batch)
        if self.training:
            self.steps.append(output.bag_logits.detach().clone())
        return output


class Crash(Exception):
    pass


def crash_in_epoch_2(metrics: dict[str, float], epoch: int) -> None:
    if epoch == 2:
        raise Crash


def configured(folder: Path, kind: str, augment: str = "none", **cache: Any) -> TrainConfig:
    config = config_of(folder, train_slices=3, augment=augment, max_epochs=3)
    optimizer = sgd(0.05, momentum=0.9)
    return config.model_copy(
        update={
            "backbone": {**config.backbone, "weights": "none", "features": kind},
            "optimizer": optimizer,
            "cache": config.cache.model_copy(update=cache),
        }
    )


def run(
    store: Store,
    config: TrainConfig,
    freezing: FreezingStrategy,
    folder: Path,
    log_metrics: LogMetrics = lambda *_: None,
    resume: bool = False,
) -> Ran:
    """What `lungtl.train` does."""
    seed_everything(0)
    classifier = build_classifier(config, store.value_range)
    weights = classifier.backbone.fingerprint()
    features = run_features(config, classifier, freezing, store, CPU, weights)
    module = Recorded(
        classifier, freezing, BagAndSliceLoss(), config.optimizer, config.schedule, config.trainer.max_epochs
    )
    module.steps = []
    data = BagDataModule(store, split_of(store), config, features, not freezing.is_frozen(classifier.backbone))
    fit(module, data, config.trainer, folder, log_metrics, resume)
    probabilities = predict_bags(classifier, store, TEST, features, CPU).bags["probability"]
    labels = store.bags.set_index("bag_id").loc[TEST, "bag_label"]
    return Ran(
        features, torch.cat(module.steps), torch.tensor(probabilities.to_numpy()),
        float(roc_auc_score(labels, probabilities)), module.state_dict(), classifier,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("freezing", "kind", "augment"),
    [
        (Frozen(), "last", "none"),
        (LastBlocks(1), "stages", "none"),
        (LastBlocks(3), "stages", "dihedral"),
        *[
            pytest.param(freezing, kind, augment, marks=pytest.mark.exhaustive)
            for freezing in (Frozen(), LastBlocks(1), LastBlocks(3))
            for kind in ("last", "stages")
            for augment in ("none", "dihedral")
        ],
    ],
)
def test_the_cache_changes_no_number(
    store: Store, tmp_path: Path, freezing: FreezingStrategy, kind: str, augment: str
) -> None:
    views = 1 if augment == "none" else 8
    plain = run(store, configured(tmp_path, kind, augment, enabled=False), freezing, tmp_path / "plain")
    cached = run(store, configured(tmp_path, kind, augment, views=views), freezing, tmp_path / "cached")
    assert plain.features is None
    assert cached.features is not None
    assert len(plain.logits) == 3 * 8  # epochs, training bags
    torch.testing.assert_close(cached.logits, plain.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(cached.probabilities, plain.probabilities, atol=1e-5, rtol=0)
    assert cached.auroc == plain.auroc
    assert cached.state.keys() == plain.state.keys()
    for key, value in plain.state.items():
        torch.testing.assert_close(cached.state[key], value, atol=1e-4, rtol=1e-4)
    assert plain.logits.std() > 1e-2
    assert len({round(float(logit), 4) for logit in plain.logits}) > 20


def test_a_cached_run_of_half_precision_is_close(store: Store, tmp_path: Path) -> None:
    plain = run(store, configured(tmp_path, "last", enabled=False), LastBlocks(1), tmp_path / "plain")
    cached = run(store, configured(tmp_path, "last", precision="float16"), LastBlocks(1), tmp_path / "cached")
    assert not torch.equal(cached.logits, plain.logits)
    torch.testing.assert_close(cached.logits, plain.logits, atol=5e-2, rtol=0)


def test_augmentation_with_one_view_is_not_cached(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(tmp_path, "last", "dihedral")
    classifier = build_classifier(config, store.value_range)
    assert run_features(config, classifier, Frozen(), store, CPU, "w") is None
    assert "cache.views=8" in caplog.text


def test_nothing_is_cached_if_everything_trains(store: Store, tmp_path: Path) -> None:
    config = configured(tmp_path, "last")
    assert run_features(config, build_classifier(config, None), Full(), store, CPU, "w") is None
    assert not (tmp_path / "cache").exists()


def test_a_network_that_cannot_be_cut_runs_uncached(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise CannotSplit("test_resnet cannot be cut after block 4: why")

    monkeypatch.setattr("lungtl.models.bag_classifier.split_backbone", refuse)
    config = configured(tmp_path, "last")
    classifier = build_classifier(config, None)
    with caplog.at_level("WARNING"):
        assert run_features(config, classifier, LastBlocks(1), store, CPU, "w") is None
    assert len(caplog.records) == 1
    assert "cannot be cut after block 4: why" in caplog.text


def test_evaluation_does_not_augment(store: Store, tmp_path: Path) -> None:
    config = configured(tmp_path, "last", "dihedral", views=8)
    seed_everything(0)
    classifier = build_classifier(config, None)
    features = run_features(config, classifier, LastBlocks(1), store, CPU, "w")
    assert features is not None
    cached = predict_bags(classifier, store, TEST, features, CPU).bags["probability"]
    plain = predict_bags(classifier, store, TEST, None, CPU).bags["probability"]
    assert cached.to_numpy() == pytest.approx(plain.to_numpy(), abs=1e-6)


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.exhaustive), 1])
def test_a_resumed_cached_run_equals_an_uninterrupted_one(store: Store, tmp_path: Path, workers: int) -> None:
    config = configured(tmp_path, "stages", "dihedral", views=8)
    config = config.model_copy(update={"trainer": config.trainer.model_copy(update={"workers": workers})})
    whole = run(store, config, LastBlocks(2), tmp_path / "whole")
    with pytest.raises(Crash):
        run(store, config, LastBlocks(2), tmp_path / "broken", crash_in_epoch_2)
    resumed = run(store, config, LastBlocks(2), tmp_path / "broken", resume=True)
    assert torch.equal(resumed.logits, whole.logits[-len(resumed.logits) :])
    assert 0 < len(resumed.logits) < len(whole.logits)
    assert all(torch.equal(resumed.state[key], value) for key, value in whole.state.items())


def test_views_without_augmentation_are_wrong_usage(tmp_path: Path) -> None:
    config = configured(tmp_path, "last", views=8).model_dump()
    with pytest.raises(UsageError, match=r"cache\.views=8: .* give image\.augment=dihedral .*or cache\.views=1"):
        TrainConfig.model_validate(config)
    config["image"]["augment"] = "dihedral"
    assert TrainConfig.model_validate(config).cache.views == 8
