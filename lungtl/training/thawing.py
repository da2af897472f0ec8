"""What Lightning's trainer owes a freezing strategy that thaws the backbone while it trains."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, EarlyStopping

from lungtl.settings.errors import UsageError
from lungtl.training.module import BagModule


class TellStrategy(Callback):
    """Tells the strategy how each epoch went, before the epoch's checkpoint is written.

    Args:
        monitor: the validation value that is told.
        mode: whether its best is the smallest or the largest.
    """

    def __init__(self, monitor: str, mode: Literal["min", "max"]) -> None:
        self.monitor = monitor
        self.sign = 1 if mode == "min" else -1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation has ended by now."""
        assert isinstance(pl_module, BagModule)
        pl_module.freezing.after_epoch(trainer.current_epoch, self.sign * float(trainer.callback_metrics[self.monitor]))


class StopWhenThawed(EarlyStopping):
    """Early stopping that looks only at epochs in which everything trains that is to train.

    Otherwise the plateau of a linear probe, for which the strategy waits to thaw the backbone, would end the run.

    Args:
        monitor: the value that has to improve.
        mode: whether its best is the smallest or the largest.
        patience: epochs without improvement before stopping.
    """

    def __init__(self, monitor: str, mode: Literal["min", "max"], patience: int) -> None:
        super().__init__(monitor, patience=patience, mode=mode, check_finite=True, check_on_train_epoch_end=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what was seen, not how long the run was to wait then."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that had stopped stays stopped: Lightning forgets that it had."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, or wait."""
        assert isinstance(pl_module, BagModule)
        if trainer.current_epoch >= pl_module.freezing.last_thaw(pl_module.classifier.backbone):
            super().on_train_epoch_end(trainer, pl_module)


def check_devices(trainer: pl.Trainer, module: BagModule) -> None:
    """Raise UsageError where several devices would drift apart: DDP sums only what trains from the first step on."""
    if trainer.world_size > 1 and module.freezing.last_thaw(module.classifier.backbone) > 0:
        raise UsageError(
            f"trainer.devices makes {trainer.world_size} processes: a freezing strategy that thaws while it trains "
            "needs one; give trainer.devices=1"
        )
