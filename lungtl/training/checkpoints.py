"""A run's checkpoints, of the last and of the best epoch; a kill at any moment leaves both usable."""

from __future__ import annotations

import math
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from lungtl.data.store.files import TEMPORARY, whole_file
from lungtl.settings.errors import LungtlError, first_line

CHECKPOINTS, LAST, BEST = "checkpoints", "last.ckpt", "best.ckpt"
STATES = ("state_dict", "current_model_state")  # validated weights and, with weight averaging, those that train
KEYS = {"state_dict", "loops", "best", "freezing", "random_state", "seconds"}  # entries that a run needs to resume


class _Writer:
    """Passes on what torch writes, and remembers the system's error, e.g. a full disk, which torch replaces."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            return self.file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint completely or not at all, without weights that training does not change.

    Lightning's own copies it from the system's temporary folder, so that a kill may leave a part of it. `frozen` are
    tensors of the module's state dict that never change: omitted from files and restored when reading.
    """

    def __init__(self, frozen: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.frozen = dict(frozen or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write to a temporary file, then replace; raises LungtlError e.g. when the disk is full."""
        path = Path(path)
        states = {key: {name: value for name, value in checkpoint[key].items() if name not in self.frozen}
                  for key in STATES if key in checkpoint}  # fmt: skip
        with whole_file(path, path.parent) as file:
            writer = _Writer(file)
            try:
                torch.save(checkpoint | states, cast("IO[bytes]", writer))
            except RuntimeError as error:  # torch's own, about the position in the file
                raise writer.error or error from error
            file.flush()
            os.fsync(file.fileno())  # the content must be on disk before the name

    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read a checkpoint, with the weights of the whole module; raises LungtlError if the file was altered."""
        check_intact(Path(path))
        checkpoint = super().load_checkpoint(path, *args, **kwargs)
        return checkpoint | {key: self.frozen | checkpoint[key] for key in STATES if key in checkpoint}


class Checkpoints(Checkpoint):
    """Writes `last.ckpt` at the end of each epoch, and copies it to `best.ckpt` if the epoch is the best so far.

    The last checkpoint records which epoch was best. If the run was killed between the two files, that is its own
    epoch, and it is copied when the run is resumed.

    `monitor` is the validation value that chooses the best epoch: non-finite values never do, ties go to the first.
    """

    def __init__(self, folder: Path, monitor: str, mode: Literal["min", "max"]) -> None:
        self.folder = folder
        self.monitor = monitor
        self.sign = 1 if mode == "min" else -1
        self.best_epoch: int | None = None  # None before there is one
        self.best_value = self.sign * math.inf

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Create the folder; remove temporary files of a killed process."""
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            for file in self.folder.glob(f"*{TEMPORARY}"):
                file.unlink()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called after validation and after all other callbacks."""
        value = float(trainer.callback_metrics[self.monitor])
        if math.isfinite(value) and self.sign * value < self.sign * self.best_value:
            self.best_epoch, self.best_value = trainer.current_epoch, value
        trainer.save_checkpoint(self.folder / LAST)
        self._copy_best(trainer, trainer.current_epoch)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Record the best epoch."""
        checkpoint["best"] = {"monitor": self.monitor, "epoch": self.best_epoch, "value": self.best_value}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the best epoch; raises LungtlError if another value was monitored."""
        earlier = checkpoint["best"]["monitor"]
        if earlier != self.monitor:
            raise LungtlError(f"the run monitored {earlier}, not trainer.monitor={self.monitor}; start a new run")
        self.best_epoch, self.best_value = checkpoint["best"]["epoch"], checkpoint["best"]["value"]
        if "current_model_state" in checkpoint:  # a run with weight averaging may be resumed without
            pl_module.load_state_dict(checkpoint["current_model_state"])
        self._copy_best(trainer, checkpoint["epoch"])

    def _copy_best(self, trainer: pl.Trainer, epoch: int) -> None:
        if epoch == self.best_epoch and trainer.is_global_zero:
            with (self.folder / LAST).open("rb") as last, whole_file(self.folder / BEST, self.folder) as best:
                shutil.copyfileobj(last, best)
                best.flush()
                os.fsync(best.fileno())
        trainer.strategy.barrier("best.ckpt")


def check_intact(path: Path) -> None:
    """Raise LungtlError if a checkpoint was altered: torch writes the CRC-32 of each tensor, but never compares it."""
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise LungtlError(f"{path} is not a checkpoint ({first_line(error)}); start a new run") from error
    if damaged is not None:
        raise LungtlError(f"{path} was altered ({damaged}); restore it, or start a new run")


def check_checkpoint(folder: Path) -> bool:
    """Whether a run's folder has a last checkpoint; raises LungtlError if `fit` did not write it, or it was altered."""
    path = folder / CHECKPOINTS / LAST
    if not path.is_file():
        return False
    check_intact(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many types for an invalid file
        raise LungtlError(f"{path} is not a checkpoint ({first_line(error)}); start a new run") from error
    if not isinstance(checkpoint, dict) or not checkpoint.keys() >= KEYS:
        raise LungtlError(f"{path} is not a checkpoint of a run; start a new run")
    return True
