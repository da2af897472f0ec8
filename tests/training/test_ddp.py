"""Two processes train what one would have trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import ProcessRaisedException

from lungtl.data.store.reader import Store
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.collective import rank
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.gradual import Gradual
from lungtl.models.freezing.last_blocks import LastBlocks
from lungtl.models.inference import predict_bags
from lungtl.settings.errors import UsageError
from lungtl.training.module import BagModule
from lungtl.training.processes import Place, strategy
from tests.models.tiny import tiny_classifier
from tests.stores import toy_store
from tests.training.test_fit import CPU, Crash, Epochs, changed, last_state, train

LENGTHS = (2, 3, 1, 4, 2, 3, 3, 2, 4, 1, 2, 3)
DRAWN: dict[str, Any] = {"sampler": "balanced", "bucket": True, "workers": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


def trained(store: Store, folder: Path, devices: int, **trainer: Any) -> tuple[Epochs, dict[str, Any], Any]:
    """Epochs, result and predictions of a run whose network drops nothing: processes would drop other slices."""
    classifier = tiny_classifier()
    classifier.projection.dropout.p = 0.0
    epochs = Epochs()
    _, result = train(
        store, folder, Frozen(), epochs, classifier=classifier, devices=devices, max_epochs=3, patience=5, **trainer
    )
    return epochs, result, predict_bags(classifier, store, list(store.bags["bag_id"]), None, CPU)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(store: Store, tmp_path: Path) -> None:
    one, two = (trained(store, tmp_path / str(n), n, cache=tmp_path, **DRAWN) for n in (1, 2))
    assert list(one[0].seen) == list(two[0].seen) == [0, 1, 2]
    assert {"train/loss", "train/slice_loss", "val/loss", "val/auroc"} <= one[0].seen[0].keys()
    for epoch, metrics in one[0].seen.items():
        assert two[0].seen[epoch] == pytest.approx(metrics, abs=1e-5)
    assert one[0].seen[0]["train/loss"] - one[0].seen[2]["train/loss"] > 0.01
    assert two[1] == pytest.approx(one[1], abs=1e-5)
    np.testing.assert_allclose(two[2].bags["probability"], one[2].bags["probability"], atol=1e-5)
    assert not torch.distributed.is_initialized()  # a sweep's next run starts from nothing


class FailsElsewhere(LastBlocks):
    """In a process that the user did not start, as epoch 1 begins."""

    def apply(self, backbone: TimmBackbone, epoch: int) -> None:
        super().apply(backbone, epoch)
        if epoch == 1 and rank() == 1:
            raise ValueError("the other process has failed")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_run_that_failed_in_another_process_says_so_and_goes_on_as_if_it_had_not(
    store: Store, tmp_path: Path
) -> None:
    """A backbone that trains, dropout and batch norm of its own, augmentation."""
    settings: dict[str, Any] = {"devices": 2, "max_epochs": 2, "augment": True, "batch_size": 4}
    whole, resumed = Epochs(), Epochs()
    _, expected = train(store, tmp_path / "whole", LastBlocks(1), whole, **settings)
    with pytest.raises(ProcessRaisedException, match="the other process has failed"):
        train(store, tmp_path / "broken", FailsElsewhere(1), **settings)
    assert not torch.distributed.is_initialized()
    assert not torch.multiprocessing.active_children()
    _, result = train(store, tmp_path / "broken", LastBlocks(1), resumed, resume=True, **settings)
    assert resumed.seen == {1: pytest.approx(whole.seen[1], abs=1e-6)}
    states = [last_state(tmp_path / name)["state_dict"] for name in ("whole", "broken")]
    assert changed(*states) == set()
    assert result == expected


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_resumed_average_ends_as_one_that_was_never_interrupted(store: Store, tmp_path: Path) -> None:
    """Batch norm trains: its statistics are those of all processes, in the weights and in their average."""
    settings: dict[str, Any] = {"devices": 2, "max_epochs": 2, "batch_size": 4, "ema": 0.75}
    whole, resumed = Epochs(), Epochs()
    train(store, tmp_path / "whole", LastBlocks(1), whole, **settings)
    with pytest.raises(Crash):
        train(store, tmp_path / "broken", LastBlocks(1), Epochs(crash_at=1), **settings)
    train(store, tmp_path / "broken", LastBlocks(1), resumed, resume=True, **settings)
    assert resumed.seen == {1: whole.seen[1]}
    states = [last_state(tmp_path / name) for name in ("whole", "broken")]
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert changed(states[0][part], states[1][part]) == set(), part


class CannotStart(BagModule):
    """Where it is unpickled: in a process that the user did not start."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise ValueError("the other process cannot start")


@pytest.mark.slow
def test_a_process_that_cannot_start_ends_the_run(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match="the other process cannot start"):
        train(store, tmp_path, Frozen(), kind=CannotStart, devices=2)
    assert not torch.multiprocessing.active_children()


@pytest.mark.slow
def test_what_all_processes_refuse_is_one_line(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^a batch of 1 bags cannot be shared by 2 processes") as error:
        train(store, tmp_path, Frozen(), devices=2, batch_size=1)
    assert "\n" not in str(error.value)
    assert not torch.multiprocessing.active_children()


def test_a_strategy_that_thaws_later_starts_no_process(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"2 processes.*give trainer\.devices=1"):
        train(store, tmp_path, Gradual(1), devices=2)
    assert not torch.multiprocessing.active_children()


def test_one_device_needs_no_strategy() -> None:
    assert strategy(1, Place()) == "auto"


def test_processes_meet_where_the_first_one_waits() -> None:
    first = Place()
    second = Place(1, first.port)
    assert (first.local_rank(), second.local_rank()) == (0, 1)
    assert first.main_port == second.main_port > 0
    assert first.creates_processes_externally
