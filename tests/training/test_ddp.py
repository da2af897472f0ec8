"""Two DDP ranks train what one process would have trained; see also tests/commands/test_train_devices.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.multiprocessing.spawn import ProcessRaisedException

from lungtl.data.store.reader import Store
from lungtl.models.backbones.base import Backbone
from lungtl.models.collectives import rank
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.gradual import Gradual
from lungtl.models.freezing.last_blocks import LastBlocks
from lungtl.models.freezing.lp_ft import LpFt
from lungtl.models.inference import predict_bags
from lungtl.settings.errors import UsageError
from lungtl.training.datamodule import BagDataModule
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from lungtl.training.processes import StartedRanks, strategy
from tests.models.tiny import tiny_classifier
from tests.stores import toy_store
from tests.training.test_fit import CPU, Crash, Epochs, changed, config_of, last_state, split_of, train

LENGTHS = (2, 3, 1, 4, 2, 3, 3, 2, 4, 1, 2, 3)
DRAWN: dict[str, Any] = {"sampler": "balanced", "bucket": True, "workers": 1, "batch_size": 4}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


def trained(store: Store, folder: Path, devices: int, **trainer: Any) -> tuple[Epochs, dict[str, Any], Any]:
    """Epochs, result and predictions of a run without dropout, which differs between ranks."""
    classifier = tiny_classifier()
    classifier.projection.dropout.p = 0.0
    epochs = Epochs()
    _, result = train(
        store, folder, Frozen(), epochs, classifier=classifier, devices=devices, max_epochs=3, patience=5, **trainer
    )
    return epochs, result, predict_bags(classifier, store, list(store.bags["bag_id"]), None, CPU)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_ranks_train_what_one_trains(store: Store, tmp_path: Path) -> None:
    one, two = (trained(store, tmp_path / str(n), n, cache=tmp_path, **DRAWN) for n in (1, 2))
    assert list(one[0].seen) == list(two[0].seen) == [1, 2, 3]
    assert {"train/loss", "train/slice_loss", "val/loss", "val/auroc"} <= one[0].seen[1].keys()
    for epoch, metrics in one[0].seen.items():
        assert two[0].seen[epoch] == pytest.approx(metrics, abs=1e-5)
    assert one[0].seen[1]["train/loss"] - one[0].seen[3]["train/loss"] > 0.01
    assert two[1] == pytest.approx(one[1], abs=1e-5)
    np.testing.assert_allclose(two[2].bags["probability"], one[2].bags["probability"], atol=1e-5)
    assert not torch.distributed.is_initialized()  # a sweep's next run starts afresh


class FailsInRank1(LastBlocks):
    """At the start of epoch 1."""

    def apply(self, backbone: Backbone, epoch: int) -> None:
        super().apply(backbone, epoch)
        if epoch == 1 and rank() == 1:
            raise ValueError("rank 1 has failed")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_error_of_another_rank_is_raised_and_the_run_resumes(store: Store, tmp_path: Path) -> None:
    """With a backbone that trains, dropout, its own batch norm, and augmentation."""
    settings: dict[str, Any] = {"devices": 2, "max_epochs": 2, "augment": True, "batch_size": 4}
    whole, resumed = Epochs(), Epochs()
    _, expected = train(store, tmp_path / "whole", LastBlocks(1), whole, **settings)
    with pytest.raises(ProcessRaisedException, match="rank 1 has failed"):
        train(store, tmp_path / "broken", FailsInRank1(1), **settings)
    assert not torch.distributed.is_initialized()
    assert not torch.multiprocessing.active_children()
    _, result = train(store, tmp_path / "broken", LastBlocks(1), resumed, resume=True, **settings)
    assert resumed.seen == {2: pytest.approx(whole.seen[2], abs=1e-6)}
    states = [last_state(tmp_path / name)["state_dict"] for name in ("whole", "broken")]
    assert changed(*states) == set()
    assert result == expected


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_resumed_average_equals_an_uninterrupted_one(store: Store, tmp_path: Path) -> None:
    """Batch-norm statistics are averaged over the ranks, in the weights and in their average."""
    settings: dict[str, Any] = {"devices": 2, "max_epochs": 2, "batch_size": 4, "ema": 0.75}
    whole, resumed = Epochs(), Epochs()
    train(store, tmp_path / "whole", LastBlocks(1), whole, **settings)
    with pytest.raises(Crash):
        train(store, tmp_path / "broken", LastBlocks(1), Epochs(crash_at=2), **settings)
    train(store, tmp_path / "broken", LastBlocks(1), resumed, resume=True, **settings)
    assert resumed.seen == {2: whole.seen[2]}
    states = [last_state(tmp_path / name) for name in ("whole", "broken")]
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert changed(states[0][part], states[1][part]) == set(), part


class CannotStart(BagModule):
    """Fails where it is unpickled: in rank 1."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise ValueError("rank 1 cannot start")


@pytest.mark.slow
@pytest.mark.exhaustive
def test_a_rank_that_cannot_start_ends_the_run(store: Store, tmp_path: Path) -> None:
    with pytest.raises(ProcessRaisedException, match="rank 1 cannot start"):
        train(store, tmp_path, Frozen(), kind=CannotStart, devices=2)
    assert not torch.multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_error_of_all_ranks_is_one_line(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^a batch of 1 cases cannot be shared by 2 processes") as error:
        train(store, tmp_path, Frozen(), devices=2, batch_size=1)
    assert "\n" not in str(error.value)
    assert not torch.multiprocessing.active_children()


@pytest.mark.parametrize("freezing", [Gradual(1), LpFt()])
def test_unfreezing_during_training_requires_one_device(
    store: Store, tmp_path: Path, freezing: FreezingStrategy
) -> None:
    with pytest.raises(UsageError, match=r"trainer\.devices=2.*use trainer\.devices=1"):
        train(store, tmp_path, freezing, devices=2)
    assert not torch.multiprocessing.active_children()


def test_one_device_needs_no_strategy() -> None:
    assert strategy(1, StartedRanks()) == "auto"


class EpochCount(Callback):
    """Remembers what happened, as do the callbacks of tracking, search and checkpoints."""

    def __init__(self) -> None:
        self.epochs = 0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.epochs += 1


@pytest.mark.slow
def test_lightnings_launcher_leaves_callbacks_in_other_processes(store: Store, tmp_path: Path) -> None:
    """Why `lungtl.training.processes` exists; with it `test_two_ranks_train_what_one_trains` receives all epochs."""
    count = EpochCount()
    config = config_of(tmp_path, batch_size=4)
    module = BagModule(tiny_classifier(), Frozen(), BagAndSliceLoss(), config.optimizer, config.schedule, 1)
    data = BagDataModule(store, split_of(store), config, None, backbone_trains=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a forked process cannot use its parent's threads
    pl.Trainer(
        max_epochs=1, accelerator="cpu", devices=2, strategy="ddp_fork", use_distributed_sampler=False,
        callbacks=[count], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        default_root_dir=tmp_path,
    ).fit(module, data)  # fmt: skip
    torch.set_num_threads(threads)
    assert count.epochs == 0
