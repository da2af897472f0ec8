"""Runs whose strategy unfreezes the backbone during training."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lungtl.data.store.reader import Store
from lungtl.models.backbones.base import Backbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.gradual import Gradual
from lungtl.models.freezing.lora import Lora
from lungtl.models.freezing.lp_ft import LpFt
from tests.models.freezing.cases import changed, needs_peft
from tests.models.tiny import tiny_classifier
from tests.stores import toy_store
from tests.training.test_fit import Crash, Epochs, last_state, train

LENGTHS = (2, 3, 1, 4, 2, 3, 3, 2, 4, 1, 2, 3)
# one bag validates: its AUROC is 0.5 in every epoch, so that the first stays the best
FLAT: dict[str, Any] = {"monitor": "val/auroc", "batch_size": 1, "limit_batches": 1}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


def adapted(freezing: FreezingStrategy) -> BagClassifier:
    classifier = tiny_classifier()
    freezing.adapt(classifier.backbone)
    return classifier


def gradual() -> FreezingStrategy:
    return Gradual(every=2)


def lp_ft() -> FreezingStrategy:
    return AlwaysWorse(probe_epochs=9, patience=1)


class AlwaysWorse(LpFt):
    """Sees validation go down: the probe ends after epoch 1."""

    def after_epoch(self, epoch: int, value: float) -> None:
        super().after_epoch(epoch, float(epoch))


@pytest.mark.parametrize(
    ("build", "crash_at"),
    [
        (gradual, 2),
        (gradual, 3),
        (lp_ft, 4),
        pytest.param(Lora, 3, marks=needs_peft),
        *[pytest.param(build, at, marks=pytest.mark.exhaustive) for build in (gradual, lp_ft) for at in (2, 3, 4)],
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    store: Store, tmp_path: Path, build: Callable[[], FreezingStrategy], crash_at: int
) -> None:
    """Unfreezes in epoch 3: interrupted before it, at it, behind it."""
    whole, resumed = Epochs(), Epochs()
    first, second, third = build(), build(), build()
    expected_module, expected = train(store, tmp_path / "whole", first, whole, classifier=adapted(first))
    with pytest.raises(Crash):
        train(store, tmp_path / "broken", second, Epochs(crash_at), classifier=adapted(second))
    module, result = train(store, tmp_path / "broken", third, resumed, resume=True, classifier=adapted(third))

    assert {e: m for e, m in resumed.seen.items() if e >= crash_at} == {
        e: m for e, m in whole.seen.items() if e >= crash_at
    }
    states = [last_state(tmp_path / name) for name in ("whole", "broken")]
    assert changed(states[0]["state_dict"], states[1]["state_dict"]) == set()
    assert states[0]["freezing"] == states[1]["freezing"] == third.state()
    assert optimizer_tensors(states[0]).keys() == optimizer_tensors(states[1]).keys()
    assert changed(optimizer_tensors(states[0]), optimizer_tensors(states[1])) == set()
    assert changed(expected_module.state_dict(), module.state_dict()) == set()
    assert result == expected


def optimizer_tensors(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    (optimizer,) = checkpoint["optimizer_states"]
    return {f"{i}.{key}": value for i, state in optimizer["state"].items() for key, value in state.items()}


def test_a_run_resumes_from_its_last_epoch_not_from_the_best(store: Store, tmp_path: Path) -> None:
    with pytest.raises(Crash):
        train(store, tmp_path, Frozen(), Epochs(crash_at=4), **FLAT)
    resumed = Epochs()
    _, result = train(store, tmp_path, Frozen(), resumed, resume=True, **FLAT)
    assert list(resumed.seen) == [4]
    assert result["best_epoch"] == 1


class Trains(Epochs):
    """Notes at each epoch's end whether the backbone has trained in it."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.noted: list[bool] = []

    def __call__(self, metrics: dict[str, float], epoch: int) -> None:
        self.noted.append(any(p.requires_grad for p in self.backbone.parameters()))


def test_the_plateau_of_the_probe_does_not_end_the_run(tmp_path: Path) -> None:
    store = toy_store(tmp_path / "data", [2] * 12)  # batch norm needs more than one slice
    classifier = tiny_classifier()
    trains = Trains(classifier.backbone)
    freezing = LpFt(probe_epochs=20, patience=5)
    _, result = train(store, tmp_path, freezing, trains, classifier=classifier, max_epochs=30, patience=2, **FLAT)
    # the probe: its first epoch and five no better ones; then likewise, but two
    assert trains.noted == [False] * 6 + [True] * 3
    assert result["epochs"] == 9


@pytest.mark.parametrize(("monitor", "sign"), [("val/loss", 1), ("val/auroc", -1)])
def test_the_strategy_receives_the_monitored_value_such_that_lower_is_better(
    store: Store, tmp_path: Path, monitor: str, sign: int
) -> None:
    told: dict[int, float] = {}

    class Listens(Frozen):
        def after_epoch(self, epoch: int, value: float) -> None:
            told[epoch] = value

    epochs = Epochs()
    train(store, tmp_path, Listens(), epochs, max_epochs=2, monitor=monitor)
    assert told == {epoch - 1: sign * metrics[monitor] for epoch, metrics in epochs.seen.items()}
    assert all(math.isfinite(value) for value in told.values())
