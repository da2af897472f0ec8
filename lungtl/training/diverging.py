"""Training whose weights are no numbers any more ends."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

log = logging.getLogger(__name__)


class StopWhenDiverged(Callback):
    """Ends training once a weight is not finite: no later step makes it a number again.

    All processes hold the same weights, and so decide alike.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that had ended so is not taken up again."""
        self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at what the epoch has made of the weights."""
        self._look(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if all(parameter.isfinite().all() for parameter in pl_module.parameters() if parameter.requires_grad):
            return
        trainer.should_stop = True
        if trainer.is_global_zero:
            log.warning("training has diverged: weights are not finite; a lower optimizer.lr may help")
