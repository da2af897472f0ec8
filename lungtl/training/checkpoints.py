"""A run's checkpoints, the last epoch's and the best one's: a kill at any moment leaves both usable."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from lungtl.data.store.files import TEMPORARY, whole_file
from lungtl.settings.errors import LungtlError

CHECKPOINTS, LAST, BEST = "checkpoints", "last.ckpt", "best.ckpt"
STATES = ("state_dict", "current_model_state")
"""Where a checkpoint has weights: those that validate, and beside an average of them those that train."""
KEYS = {"state_dict", "loops", "best", "freezing", "random_state", "seconds"}
"""What a checkpoint needs for a run to go on."""


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint whole or not at all, and of the weights only those that training changes.

    Lightning's own goes through the system's folder for temporary files: from there to another file system it is
    copied, and a kill leaves a part.

    Args:
        frozen: tensors of the module's state dict that stay as they are. They are left out of a file, and put back
            into what is read from it.
    """

    def __init__(self, frozen: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.frozen = dict(frozen or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write beside the path, then exchange; raises LungtlError when the disk is full, or the like."""
        path = Path(path)
        states = {key: {name: value for name, value in checkpoint[key].items() if name not in self.frozen}
                  for key in STATES if key in checkpoint}  # fmt: skip
        with whole_file(path, path.parent) as file:
            torch.save(checkpoint | states, file)
            file.flush()
            os.fsync(file.fileno())  # the name must not outlive the bytes

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read one; its weights are those of the whole module."""
        checkpoint = super().load_checkpoint(path, *args, **kwargs)
        return checkpoint | {key: self.frozen | checkpoint[key] for key in STATES if key in checkpoint}


class Checkpoints(Checkpoint):
    """Writes `last.ckpt` at each epoch's end, and copies it to `best.ckpt` where the epoch is the best so far.

    The last checkpoint says which epoch was the best. Where a kill came between the two files that is its own epoch,
    and the copy is made when the run goes on; otherwise `best.ckpt` was there before `last.ckpt` was written.

    Args:
        folder: gets both; is created.
        monitor: the validation value that has to be the best; an epoch in which it is not finite never is.
        mode: whether its best is the smallest or the largest. Of equal epochs the first is the best.

    Attributes:
        best_epoch: None before there is one.
        best_value: what was monitored in it.
    """

    def __init__(self, folder: Path, monitor: str, mode: Literal["min", "max"]) -> None:
        self.folder = folder
        self.monitor = monitor
        self.sign = 1 if mode == "min" else -1
        self.best_epoch: int | None = None
        self.best_value = self.sign * math.inf

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the folder; drop what a killed process was writing there."""
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            for part in self.folder.glob(f"*{TEMPORARY}"):
                part.unlink()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation has ended by now, and every other callback has seen it."""
        value = float(trainer.callback_metrics[self.monitor])
        if math.isfinite(value) and self.sign * value < self.sign * self.best_value:
            self.best_epoch, self.best_value = trainer.current_epoch, value
        trainer.save_checkpoint(self.folder / LAST)
        self._keep_best(trainer, trainer.current_epoch)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say which epoch was the best, and of what."""
        checkpoint["best"] = {"monitor": self.monitor, "epoch": self.best_epoch, "value": self.best_value}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on from there; raises LungtlError where something else was monitored."""
        earlier = checkpoint["best"]["monitor"]
        if earlier != self.monitor:
            raise LungtlError(f"the run monitored {earlier}, now trainer.monitor={self.monitor}; start a new run")
        self.best_epoch, self.best_value = checkpoint["best"]["epoch"], checkpoint["best"]["value"]
        if "current_model_state" in checkpoint:  # of a run with an average, which may go on without one
            pl_module.load_state_dict(checkpoint["current_model_state"])
        self._keep_best(trainer, checkpoint["epoch"])

    def _keep_best(self, trainer: pl.Trainer, epoch: int) -> None:
        if epoch == self.best_epoch and trainer.is_global_zero:
            with (self.folder / LAST).open("rb") as last, whole_file(self.folder / BEST, self.folder) as best:
                shutil.copyfileobj(last, best)
                best.flush()
                os.fsync(best.fileno())
        trainer.strategy.barrier("best.ckpt")


def check_checkpoint(folder: Path) -> bool:
    """Whether a run's folder has a last checkpoint; raises LungtlError when that is not one which `fit` wrote.

    Tensors are not read.
    """
    path = folder / CHECKPOINTS / LAST
    if not path.is_file():
        return False
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a file that is none; each means the same to the user
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LungtlError(f"{path} is not a checkpoint ({reason}); start the run anew") from error
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= KEYS:
        raise LungtlError(f"{path} is not a checkpoint of a run; start the run anew")
    return True
