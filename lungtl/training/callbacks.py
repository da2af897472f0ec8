"""Lightning callbacks of a run: logging, early stopping, divergence, averaged weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, RichProgressBar, WeightAveraging
from torch import Tensor

from lungtl.training.module import BagModule

log = logging.getLogger(__name__)
LogMetrics = Callable[[dict[str, float], int], None]


class EpochLog(Callback):
    """Passes each epoch's metrics, learning rate and number, counted from 1, to the run's log, on rank 0."""

    def __init__(self, log_metrics: LogMetrics) -> None:
        self.log_metrics = log_metrics

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called after validation, before the epoch's checkpoint is written."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if trainer.is_global_zero:
            self.log_metrics(metrics, trainer.current_epoch + 1)


class EpochBar(RichProgressBar):
    """Lightning's progress bar, with epochs counted from 1; it disappears when training ends."""

    def _init_progress(self, trainer: pl.Trainer) -> None:
        super()._init_progress(trainer)
        if self.progress is not None:
            self.progress.live.transient = True

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"


class NotifyStrategy(Callback):
    """Reports each epoch's validation value to the freezing strategy, before the epoch's checkpoint is written."""

    def __init__(self, monitor: str, mode: Literal["min", "max"]) -> None:
        self.monitor = monitor
        self.sign = 1 if mode == "min" else -1

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called after validation."""
        assert isinstance(pl_module, BagModule)
        pl_module.freezing.after_epoch(trainer.current_epoch, self.sign * float(trainer.callback_metrics[self.monitor]))


class StopAfterUnfreezing(EarlyStopping):
    """Early stopping that ignores epochs before the last group is unfrozen, such as the plateau of a linear probe."""

    def __init__(self, monitor: str, mode: Literal["min", "max"], patience: int) -> None:
        super().__init__(monitor, patience=patience, mode=mode, check_finite=True, check_on_train_epoch_end=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore everything but the patience, which may have been changed for the resumed run."""
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep a run stopped that had stopped before it was resumed, which Lightning does not record."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check for improvement once everything trains."""
        assert isinstance(pl_module, BagModule)
        if trainer.current_epoch >= pl_module.freezing.last_unfreezing(pl_module.classifier.backbone):
            super().on_train_epoch_end(trainer, pl_module)


class StopWhenDiverged(Callback):
    """Ends training once a weight is not finite, which no later step can repair; the same on all ranks."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A diverged run is not resumed."""
        self._check(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the weights after each epoch."""
        self._check(trainer, pl_module)

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if all(parameter.isfinite().all() for parameter in pl_module.parameters() if parameter.requires_grad):
            return
        trainer.should_stop = True
        if trainer.is_global_zero:
            log.warning("training has diverged: weights are not finite; try a lower optimizer.lr")


class AveragedWeights(WeightAveraging):
    """Exponential moving average of the weights, which is validated and kept: a <- decay a + (1 - decay) w.

    It starts at the weights after the first step; batch-norm statistics are averaged likewise. During validation and
    in a checkpoint's `state_dict` the average replaces the weights; training continues from the weights themselves.
    Lightning's `EMAWeightAveraging` changes frozen tensors by rounding and does not update integer buffers.
    """

    def __init__(self, decay: float, device: torch.device) -> None:
        # the device is needed since the module is moved only after the average is created
        def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            if not averaged.is_floating_point():
                return current
            return averaged.lerp(current, 1 - decay)  # exact where both are equal

        super().__init__(device=device, avg_fn=average)
