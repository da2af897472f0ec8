"""Pruning: a trial of a search stops early if other trials were better at the same epoch.

The run, in another process and perhaps on another machine than the search, knows its trial number from the
environment; the study is stored in the sweep's folder, which contains the run's.
"""

from __future__ import annotations

import lungtl.training  # noqa: F401  # isort: skip  # first, since Lightning imports torchvision

import json
import logging
import os
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from lungtl.data.store.files import whole_file
from lungtl.runs.folder import PRUNED
from lungtl.sweeps.search import JOURNAL, TRIAL

log = logging.getLogger(__name__)


def pruning(folder: Path, monitor: str) -> list[Callback]:
    """The callback of a run that is a trial; none otherwise, as for the controls that a run trains elsewhere."""
    number = os.environ.get(TRIAL)
    if number is None or not (folder.parent / JOURNAL).is_file():
        return []
    return [PruneTrial(folder, int(number), monitor)]


class PruneTrial(Callback):
    """Reports each epoch's value to the study; if the median rule says so, stops training and writes `PRUNED`."""

    def __init__(self, folder: Path, number: int, monitor: str) -> None:
        self.folder = folder
        self.number = number
        self.monitor = monitor

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A pruned run that is resumed counts as pruned only if it is pruned again."""
        if trainer.is_global_zero:
            (self.folder / PRUNED).unlink(missing_ok=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called after validation; all ranks follow the decision of rank 0."""
        from lungtl.sweeps.search.study import should_prune  # Optuna, which is an extra

        value, epoch = float(trainer.callback_metrics[self.monitor]), trainer.current_epoch
        prune = trainer.is_global_zero and should_prune(self.folder.parent, self.number, value, epoch)
        if not trainer.strategy.reduce_boolean_decision(prune, all=False):
            return
        trainer.should_stop = True
        if trainer.is_global_zero:
            log.info("pruned: other trials were better after %d epochs", epoch + 1)
            with whole_file(self.folder / PRUNED, self.folder) as file:
                file.write(json.dumps({"trial": self.number, "epochs": epoch + 1}).encode())
