"""A resumed training goes on to the end that it would have had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lungtl.data.store.reader import Store
from lungtl.models.backbones.base import Backbone
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.full import Full
from lungtl.models.freezing.last_blocks import LastBlocks
from lungtl.settings.errors import LungtlError
from tests.stores import toy_store
from tests.training.test_fit import LENGTHS, Crash, Epochs, changed, last_state, train


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


class CrashesInEpoch2(LastBlocks):
    def apply(self, backbone: Backbone, epoch: int) -> None:
        super().apply(backbone, epoch)
        if epoch == 2:
            raise Crash


@pytest.mark.parametrize(
    ("freezing", "crash_at"), [(LastBlocks(1), 2), (CrashesInEpoch2(1), None)], ids=["end of 1", "begin of 2"]
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    store: Store, tmp_path: Path, freezing: FreezingStrategy, crash_at: int | None
) -> None:
    whole, resumed = Epochs(), Epochs()
    expected_module, expected_result = train(store, tmp_path / "whole", LastBlocks(1), whole, augment=True)
    with pytest.raises(Crash):
        train(store, tmp_path / "broken", freezing, Epochs(crash_at), augment=True)
    module, result = train(store, tmp_path / "broken", LastBlocks(1), resumed, augment=True, resume=True)

    assert {e: m for e, m in resumed.seen.items() if e > 2} == {e: m for e, m in whole.seen.items() if e > 2}
    expected, found = (last_state(tmp_path / name) for name in ("whole", "broken"))
    assert found["epoch"] == expected["epoch"] == 3
    assert changed(expected["state_dict"], found["state_dict"]) == set()
    assert found["lr_schedulers"] == expected["lr_schedulers"]
    assert changed(expected_module.state_dict(), module.state_dict()) == set()
    assert result == expected_result


def test_training_time_includes_earlier_attempts(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, Frozen(), max_epochs=1)
    path = tmp_path / "checkpoints" / "last.ckpt"
    state = last_state(tmp_path)
    assert 0 < state["seconds"] < 600
    torch.save(state | {"seconds": 1000.0}, path)
    module, _ = train(store, tmp_path, Frozen(), max_epochs=2, resume=True)
    assert 1000 < last_state(tmp_path)["seconds"] < module.seconds < 1600


def test_resuming_a_finished_run_returns_the_same_result(store: Store, tmp_path: Path) -> None:
    first, result = train(store, tmp_path, Frozen(), max_epochs=2)
    again, same = train(store, tmp_path, Frozen(), max_epochs=2, resume=True)
    assert same == result
    assert changed(first.state_dict(), again.state_dict()) == set()


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_run_that_stopped_early_stays_stopped(store: Store, tmp_path: Path, ema: float | None) -> None:
    options: dict[str, Any] = {"max_epochs": 60, "patience": 1, "ema": ema}
    first, result = train(store, tmp_path, Full(), **options)
    assert result["epochs"] < 60
    for _ in range(2):
        epochs = Epochs()
        again, same = train(store, tmp_path, Full(), epochs, resume=True, **options)
        assert (same, epochs.seen) == (result, {})
        assert changed(first.state_dict(), again.state_dict()) == set()


def test_a_resumed_run_uses_the_new_patience(store: Store, tmp_path: Path) -> None:
    _, result = train(store, tmp_path, Full(), max_epochs=60, patience=1)
    _, longer = train(store, tmp_path, Full(), resume=True, max_epochs=60, patience=4)
    assert longer["epochs"] == longer["best_epoch"] + 4 > result["epochs"]
    same, epochs = train(store, tmp_path, Full(), resume=True, max_epochs=60, patience=2)[1], Epochs()
    assert (same, epochs.seen) == (longer, {})


def test_a_resumed_run_must_monitor_the_same_value(store: Store, tmp_path: Path) -> None:
    train(store, tmp_path, Frozen(), max_epochs=1, monitor="val/loss")
    with pytest.raises(LungtlError, match=r"monitored val/loss, not trainer\.monitor=val/auroc; start a new run"):
        train(store, tmp_path, Frozen(), resume=True, max_epochs=2, monitor="val/auroc")


def test_a_run_without_a_checkpoint_starts_over(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, resumed = Epochs(), Epochs()
    expected, result = train(store, tmp_path / "whole", Frozen(), whole, augment=True, max_epochs=2)
    with pytest.raises(Crash):
        train(store, tmp_path / "broken", Frozen(), Epochs(crash_at=1), augment=True, max_epochs=2)
    assert not list((tmp_path / "broken" / "checkpoints").iterdir())
    with caplog.at_level("INFO"):
        module, same = train(store, tmp_path / "broken", Frozen(), resumed, True, augment=True, max_epochs=2)
    assert "no checkpoint yet" in caplog.text
    assert changed(expected.state_dict(), module.state_dict()) == set()
    assert (same, resumed.seen) == (result, whole.seen)
