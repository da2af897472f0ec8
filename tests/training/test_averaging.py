"""`trainer.ema`: Lightning's part and ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lungtl.data.store.reader import Store
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.full import Full
from lungtl.models.freezing.gradual import Gradual
from lungtl.models.freezing.last_blocks import LastBlocks
from lungtl.training.datamodule import BagDataModule
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from tests.models.tiny import tiny_classifier
from tests.stores import toy_store
from tests.training.test_fit import Crash, Epochs, changed, config_of, last_state, split_of, train
from tests.training.test_unfreezing import AlwaysWorse, optimizer_tensors

LENGTHS = (2, 3, 1, 4, 2, 3, 3, 2, 4, 1, 2, 3)
DECAY = 0.75


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


class Noting(BagModule):
    """Notes the weights after each optimiser step."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.after_steps: list[dict[str, Tensor]] = []

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.after_steps.append({key: value.clone() for key, value in self.state_dict().items()})


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_follows_its_formula(store: Store, tmp_path: Path, accumulate: int) -> None:
    module, _ = train(store, tmp_path, LastBlocks(1), kind=Noting, max_epochs=2, ema=DECAY, accumulate=accumulate)
    assert isinstance(module, Noting)
    first, *others = module.after_steps
    assert 1 + len(others) == 6 // accumulate + (accumulate == 2)  # three batches an epoch
    state = last_state(tmp_path)
    assert state["state_dict"].keys() == first.keys() - module.frozen_state().keys()
    for key in state["state_dict"]:
        value = first[key]
        average = value.double()
        for weights in others:
            average = DECAY * average + (1 - DECAY) * weights[key].double()
        if value.is_floating_point():
            torch.testing.assert_close(state["state_dict"][key].double(), average, atol=1e-6, rtol=1e-6, msg=key)
        else:  # batches that batch norm has seen
            assert torch.equal(state["state_dict"][key], others[-1][key])
    assert changed(state["current_model_state"], others[-1]) == set()
    assert "classifier.backbone.net.layer4.0.bn1.running_mean" in changed(state["state_dict"], others[-1])


def test_averaging_does_not_change_frozen_weights(store: Store, tmp_path: Path) -> None:
    before = tiny_classifier().state_dict()
    module, _ = train(store, tmp_path, LastBlocks(1), max_epochs=3, ema=0.9)
    after = {key.removeprefix("classifier."): value for key, value in module.state_dict().items()}
    backbone = {key for key in before if key.startswith("backbone.")}
    assert changed(before, after) & backbone == {key for key in backbone if key.startswith("backbone.net.layer4.")}


@pytest.mark.parametrize("cached", [False, True])
def test_the_average_is_validated_and_kept(store: Store, tmp_path: Path, cached: bool) -> None:
    epochs = Epochs()
    module, result = train(
        store, tmp_path, Frozen(), epochs, cache=tmp_path if cached else None, max_epochs=3, ema=0.9, batch_size=4
    )
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert changed(best["state_dict"], module.state_dict()) == set()
    data = BagDataModule(store, split_of(store), config_of(tmp_path, batch_size=4), None, backbone_trains=False)
    (batch,) = data.val_dataloader()  # one, so that its loss is the epoch's

    def loss() -> float:
        with torch.no_grad():
            return float(BagAndSliceLoss()(module.eval()(batch), batch.bag_labels, batch.slice_labels)["loss"])

    told = epochs.seen[result["best_epoch"]]["val/loss"]
    assert loss() == pytest.approx(told, abs=1e-5)
    module.load_state_dict(best["current_model_state"], strict=False)  # the frozen backbone is in no checkpoint
    assert loss() != pytest.approx(told, abs=1e-3)


def test_without_averaging_the_weights_are_kept(store: Store, tmp_path: Path) -> None:
    module, _ = train(store, tmp_path, Frozen(), kind=Noting, max_epochs=1)
    assert isinstance(module, Noting)
    assert "current_model_state" not in last_state(tmp_path)
    assert changed(last_state(tmp_path)["state_dict"], module.after_steps[-1]) == set()


STRATEGIES: dict[str, Callable[[], FreezingStrategy]] = {
    "full": Full,
    "gradual": lambda: Gradual(every=2),
    "lp_ft": lambda: AlwaysWorse(probe_epochs=9, patience=1),
}


@pytest.mark.parametrize(
    ("name", "crash_at"), [("full", 2), ("gradual", 4), pytest.param("lp_ft", 3, marks=pytest.mark.exhaustive)]
)
def test_a_resumed_run_equals_an_uninterrupted_one(store: Store, tmp_path: Path, name: str, crash_at: int) -> None:
    build = STRATEGIES[name]
    whole, resumed = Epochs(), Epochs()
    expected_module, expected = train(store, tmp_path / "whole", build(), whole, ema=DECAY)
    with pytest.raises(Crash):
        train(store, tmp_path / "broken", build(), Epochs(crash_at), ema=DECAY)
    module, result = train(store, tmp_path / "broken", build(), resumed, resume=True, ema=DECAY)
    assert resumed.seen == {epoch: metrics for epoch, metrics in whole.seen.items() if epoch >= crash_at}
    states = [last_state(tmp_path / folder) for folder in ("whole", "broken")]
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert changed(states[0][part], states[1][part]) == set(), part
    assert changed(optimizer_tensors(states[0]), optimizer_tensors(states[1])) == set()
    assert changed(expected_module.state_dict(), module.state_dict()) == set()
    assert result == expected


def test_weights_are_averaged_once_they_are_unfrozen(store: Store, tmp_path: Path) -> None:
    module, _ = train(store, tmp_path, Gradual(every=2, most=1), kind=Noting, max_epochs=3, ema=DECAY)
    assert isinstance(module, Noting)
    key = "classifier.backbone.net.layer4.0.conv1.weight"
    *_, first, second, third = (step[key].double() for step in module.after_steps)  # the epoch that trains it
    frozen = module.after_steps[0][key].double()
    average = DECAY**3 * frozen + (1 - DECAY) * (DECAY**2 * first + DECAY * second + third)
    torch.testing.assert_close(last_state(tmp_path)["state_dict"][key].double(), average, atol=1e-6, rtol=1e-6)
    assert not torch.equal(frozen, first)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_resumed_without_averaging_continues_from_the_weights(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, Frozen(), max_epochs=1, ema=DECAY)
    weights = last_state(tmp_path)["current_model_state"]
    train(store, tmp_path, Frozen(), max_epochs=2, resume=True, limit_batches=None, kind=FromHere)
    assert changed(weights, FromHere.began) == set()


class FromHere(BagModule):
    """Notes the weights with which training begins."""

    began: dict[str, Tensor]

    def on_train_start(self) -> None:
        FromHere.began = {key: value.clone() for key, value in self.state_dict().items()}
