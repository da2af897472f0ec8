"""Run Lightning's trainer: checkpoints, early stopping, resume, one log line an epoch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar

from lungtl.config import TrainerConfig
from lungtl.errors import LungtlError
from lungtl.training.module import BagModule
from lungtl.training.thawing import StopWhenThawed, TellStrategy, check_devices

log = logging.getLogger(__name__)
LogMetrics = Callable[[dict[str, float], int], None]
CHECKPOINTS, LAST = "checkpoints", "last.ckpt"


class EpochLog(Callback):
    """Hands every epoch's metrics to the tracker."""

    def __init__(self, log_metrics: LogMetrics) -> None:
        self.log_metrics = log_metrics

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training and validation metrics and the learning rate of the epoch."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.log_metrics(metrics, trainer.current_epoch)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, in loader processes too."""
    pl.seed_everything(seed, workers=True, verbose=False)


def fit(
    module: BagModule,
    data: pl.LightningDataModule,
    config: TrainerConfig,
    folder: Path,
    log_metrics: LogMetrics,
    resume: bool,
) -> dict[str, Any]:
    """Train, then load the weights of the best epoch into the module.

    Args:
        module: what trains.
        data: its loaders.
        config: how long and on what.
        folder: gets `checkpoints/`.
        log_metrics: called once an epoch with (metrics, epoch).
        resume: go on from the folder's last checkpoint.

    Returns:
        best_epoch, epochs, and the monitored value.

    Raises:
        LungtlError: there is nothing to resume, the loss is not finite, or the freezing strategy cannot train on so
            many devices.
    """
    _quieten()
    checkpoints = folder / CHECKPOINTS
    last = checkpoints / LAST
    if resume:
        check_checkpoint(folder)
    mode: Literal["min", "max"] = "max" if config.monitor == "val/auroc" else "min"
    best = ModelCheckpoint(
        dirpath=checkpoints, filename="best", monitor=config.monitor, mode=mode, enable_version_counter=False
    )
    # by itself: `save_last=True` would write it only in epochs that are the best so far
    every = ModelCheckpoint(dirpath=checkpoints, filename=last.stem, enable_version_counter=False)
    bar = RichProgressBar(leave=False, console_kwargs={"stderr": True})
    callbacks: list[Callback] = [best, every, bar, EpochLog(log_metrics), TellStrategy(config.monitor, mode)]
    if config.patience is not None:
        callbacks.append(StopWhenThawed(config.monitor, mode, config.patience))
    trainer = pl.Trainer(
        max_epochs=config.max_epochs,
        accelerator=config.accelerator,
        devices=config.devices,
        precision=config.precision,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_norm,
        limit_train_batches=config.limit_batches,
        limit_val_batches=config.limit_batches,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=False,
        deterministic=True,
        enable_model_summary=False,
        default_root_dir=folder,
        log_every_n_steps=1,
    )
    check_devices(trainer, module)
    trainer.fit(module, datamodule=data, ckpt_path=last if resume else None, weights_only=True)
    if best.best_model_score is None or not torch.isfinite(best.best_model_score):
        raise LungtlError(
            f"training ended without a usable epoch ({config.monitor} was never finite); lower optimizer.lr"
        )
    checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    return {
        "best_epoch": int(checkpoint["epoch"]),
        "epochs": trainer.current_epoch,
        config.monitor: float(best.best_model_score),
    }


def check_checkpoint(folder: Path) -> None:
    """Raise LungtlError unless a run's folder has a last checkpoint that Lightning wrote."""
    path = folder / CHECKPOINTS / LAST
    if not path.is_file():
        raise LungtlError(f"nothing to resume: {path} is missing; start the run anew")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is none; each means the same to the user
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LungtlError(f"{path} is not a checkpoint ({reason}); start the run anew") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint or "loops" not in checkpoint:
        raise LungtlError(f"{path} is not a checkpoint of a run; start the run anew")


def _quieten() -> None:
    """Silence what a user cannot act on."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    # loaders over cached features are fastest in the main process:
    # https://lightning.ai/docs/pytorch/stable/advanced/speed.html#dataloaders
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")  # a resume
    # frozen layers are in evaluation mode on purpose:
    # https://lightning.ai/docs/pytorch/stable/common/lightning_module.html#on-fit-start
    warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode at the start of training.*")
    # Lightning 2.6 on torch 2.13: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/utilities/_pytree.py
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
