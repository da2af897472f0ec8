"""A trial of a search stops when the others were better at the same epoch.

The search, another process and perhaps on another machine, told the run its number; the study lies in the folder
of the sweep, beside the run's own.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lungtl.data.store.files import whole_file
from lungtl.sweeps.search.names import JOURNAL, PRUNED, TRIAL

log = logging.getLogger(__name__)


def pruning(folder: Path, monitor: str) -> list[Callback]:
    """The callback of a run that is a trial; none otherwise.

    Args:
        folder: of the run. What a run trains beside itself (a control) lies elsewhere and is no trial.
        monitor: the validation metric that the study compares.
    """
    number = os.environ.get(TRIAL)
    if number is None or not (folder.parent / JOURNAL).is_file():
        return []
    return [PruneTrial(folder, int(number), monitor)]


class PruneTrial(Callback):
    """Tells the study each epoch's value, and ends training where the study's median rule says so.

    A run that was pruned has PRUNED in its folder: the number of epochs that it trained.

    Args:
        folder: of the run.
        number: of the trial.
        monitor: the validation metric that is told.
    """

    def __init__(self, folder: Path, number: int, monitor: str) -> None:
        self.folder = folder
        self.number = number
        self.monitor = monitor

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A run that trains on is asked about anew."""
        if trainer.is_global_zero:
            (self.folder / PRUNED).unlink(missing_ok=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation has ended by now; all processes that train together hear the first one's answer."""
        from lungtl.sweeps.search.hopeless import is_hopeless

        value = float(trainer.callback_metrics[self.monitor])
        hopeless = trainer.is_global_zero and is_hopeless(self.folder.parent, self.number, value, trainer.current_epoch)
        if not trainer.strategy.reduce_boolean_decision(hopeless, all=False):
            return
        trainer.should_stop = True
        if trainer.is_global_zero:
            log.info("pruned: other trials were better after %d epochs", trainer.current_epoch + 1)
            with whole_file(self.folder / PRUNED, self.folder) as file:
                file.write(json.dumps({"trial": self.number, "epochs": trainer.current_epoch + 1}).encode())
