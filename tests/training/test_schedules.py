"""Optimiser and schedule are parts: any class of torch or timm works."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim.lamb import Lamb

from lungtl.data.store.reader import Store
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.layer_decay import LayerDecay
from lungtl.settings.parts import TARGET
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from tests.models.tiny import adamw, constant, cosine, sgd, tiny_classifier
from tests.stores import toy_store
from tests.training.test_fit import Crash, Epochs, train

SCHEDULERS = "torch.optim.lr_scheduler"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), (2, 3, 1, 4, 2, 3, 3, 2, 4, 1, 2, 3))


def module_of(optimizer: dict[str, Any], schedule: dict[str, Any], epochs: int = 1) -> BagModule:
    return BagModule(tiny_classifier(), LayerDecay(decay=0.5), BagAndSliceLoss(), optimizer, schedule, epochs)


def rates(schedule: dict[str, Any], epochs: int, lr: float = 1.0) -> list[list[float]]:
    """Learning rates of all parameter groups in each epoch."""
    configured = module_of(sgd(lr), schedule, epochs).configure_optimizers()
    found = []
    for _ in range(epochs):
        found.append([group["lr"] for group in configured["optimizer"].param_groups])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    return found


def half_cosine(epochs: int) -> list[float]:
    return [(1 + math.cos(math.pi * epoch / epochs)) / 2 for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (cosine(0), half_cosine(4)),
        (cosine(3), [1 / 4, 2 / 4, 3 / 4, *half_cosine(4)]),
        (cosine(5), [1 / 6, 2 / 6, 3 / 6]),  # the run ends during warm-up
        (constant(1), [0.5, 1, 1, 1]),
        (constant(0), [1, 1]),
        ({TARGET: f"{SCHEDULERS}.StepLR", "step_size": 2, "gamma": 0.1}, [1, 1, 0.1, 0.1, 0.01]),
    ],
)
def test_learning_rate_of_each_epoch(schedule: dict[str, Any], expected: list[float]) -> None:
    assert [epoch[0] for epoch in rates(schedule, len(expected))] == pytest.approx(expected)


def test_all_groups_follow_one_schedule() -> None:
    """Learning rates keep their ratios: 1 for the head, then halved from block to block."""
    found = rates(cosine(2), 5, lr=0.5)
    scales = [1, *(group.lr_scale for group in LayerDecay(decay=0.5).groups(tiny_classifier().backbone))]
    for factor, epoch in zip([1 / 3, 2 / 3, *half_cosine(3)], found, strict=True):
        assert epoch == pytest.approx([0.5 * factor * scale for scale in scales])


def test_any_optimiser_of_torch_or_timm() -> None:
    optimizer = module_of(adamw(0.5, 0.25), cosine()).configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.25}
    optimizer = module_of(sgd(0.5, momentum=0.75), cosine()).configure_optimizers()["optimizer"]
    assert isinstance(optimizer, torch.optim.SGD)
    assert {group["momentum"] for group in optimizer.param_groups} == {0.75}
    lamb = {TARGET: "timm.optim.Lamb", "lr": 0.5, "weight_decay": 0.1}
    optimizer = module_of(lamb, cosine()).configure_optimizers()["optimizer"]
    assert isinstance(optimizer, Lamb)
    assert [group["lr"] for group in optimizer.param_groups][:2] == [0.5, pytest.approx(0.05)]


@pytest.mark.parametrize(
    "schedule",
    [
        {TARGET: f"{SCHEDULERS}.ReduceLROnPlateau", "patience": 0, "threshold": 1e9},
        {TARGET: f"{SCHEDULERS}.ExponentialLR", "gamma": 0.5},
        cosine(1),
    ],
    ids=lambda schedule: schedule[TARGET].rpartition(".")[2],
)
def test_training_steps_the_schedule_once_an_epoch_and_resumes_it(
    store: Store, tmp_path: Path, schedule: dict[str, Any]
) -> None:
    lamb = {TARGET: "timm.optim.Lamb", "lr": 1e-3}
    epochs, resumed = Epochs(), Epochs()
    train(store, tmp_path / "whole", Frozen(), epochs, optimizer=lamb, schedule=schedule)
    rates = [metrics["lr"] for metrics in epochs.seen.values()]
    expected = {"ReduceLROnPlateau": [1, 0.1, 0.01, 0.001], "ExponentialLR": [1, 0.5, 0.25, 0.125],
                "Cosine": [0.5, 1, 0.75, 0.25]}  # fmt: skip
    assert rates == pytest.approx([1e-3 * rate for rate in expected[schedule[TARGET].rpartition(".")[2]]])
    with pytest.raises(Crash):
        train(store, tmp_path / "broken", Frozen(), Epochs(crash_at=3), optimizer=lamb, schedule=schedule)
    train(store, tmp_path / "broken", Frozen(), resumed, resume=True, optimizer=lamb, schedule=schedule)
    assert {epoch: resumed.seen[epoch] for epoch in (3, 4)} == {epoch: epochs.seen[epoch] for epoch in (3, 4)}


def test_a_resumed_run_may_have_another_length(store: Store, tmp_path: Path) -> None:
    """The cosine is that of the new length."""
    train(store, tmp_path, Frozen(), schedule=cosine(), max_epochs=2)
    resumed = Epochs()
    train(store, tmp_path, Frozen(), resumed, resume=True, schedule=cosine(), max_epochs=4)
    assert resumed.seen[4]["lr"] == pytest.approx(1e-2 * half_cosine(4)[3])
