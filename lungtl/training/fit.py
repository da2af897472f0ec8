"""Run Lightning's trainer as the config says, from the start or from the last checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, RichProgressBar

from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import TrainerConfig
from lungtl.training.averaging import AveragedWeights
from lungtl.training.checkpoints import BEST, CHECKPOINTS, LAST, Checkpoints, WholeFiles
from lungtl.training.compiling import compiled
from lungtl.training.datamodule import BagDataModule
from lungtl.training.devices import check_precision, device_count
from lungtl.training.diverging import StopWhenDiverged
from lungtl.training.module import BagModule
from lungtl.training.processes import Place, others, strategy
from lungtl.training.quiet import quieten
from lungtl.training.thawing import StopWhenThawed, TellStrategy, check_devices

log = logging.getLogger(__name__)
LogMetrics = Callable[[dict[str, float], int], None]
BAR_RATE = 20
"""How often a second the progress bar is drawn. Lightning's 100 takes the interpreter from training: a tenth of a step
on cached features."""


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
    data: BagDataModule,
    config: TrainerConfig,
    folder: Path,
    log_metrics: LogMetrics,
    resume: bool,
    callbacks: Sequence[Callback] = (),
    place: Place | None = None,
) -> dict[str, Any]:
    """Train, then load the weights of the best epoch into the module.

    Args:
        module: what trains.
        data: its loaders.
        config: how long and on what.
        folder: gets `checkpoints/`.
        log_metrics: called once an epoch with (metrics, epoch), before the epoch's checkpoint is written: a run that
            is killed in between tells the epoch again, the same numbers, when it goes on.
        resume: go on from the folder's last checkpoint, see `check_checkpoint`; a run that was stopped before its
            first one begins again.
        callbacks: further callbacks of Lightning, in every process; they are pickled.
        place: of this process among those that train together; None starts the others, one for each further device.

    Returns:
        best_epoch, epochs, and the monitored value.

    Raises:
        UsageError: the precision does not exist on the device, or the freezing strategy cannot train on so many.
        LungtlError: what is monitored was not finite in any epoch, is not what the last checkpoint was judged by, or
            the backbone cannot be compiled.
    """
    quieten()
    place = place or Place()
    count = device_count(config)
    device = check_precision(config)
    checkpoints = folder / CHECKPOINTS
    goes_on = resume and (checkpoints / LAST).is_file()
    if resume and not goes_on:
        log.info("there is no checkpoint yet: the run begins again")
    mode: Literal["min", "max"] = "max" if config.monitor == "val/auroc" else "min"
    kept, files = Checkpoints(checkpoints, config.monitor, mode), WholeFiles(module.frozen_state())
    bar = RichProgressBar(refresh_rate=BAR_RATE, leave=False, console_kwargs={"stderr": True})
    tell = TellStrategy(config.monitor, mode)
    every: list[Callback] = [kept, bar, EpochLog(log_metrics), tell, StopWhenDiverged(), *callbacks]
    if config.ema is not None:
        every.append(AveragedWeights(config.ema, device))
    if config.patience is not None:
        every.append(StopWhenThawed(config.monitor, mode, config.patience))
    # what `deterministic` also asks torch for: every new tensor filled, a fifth of a step of EfficientNet-Lite0
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    trainer = pl.Trainer(
        max_epochs=config.max_epochs,
        accelerator=config.accelerator,
        devices=count,
        strategy=strategy(count, place),
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        precision=config.precision,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_norm,
        limit_train_batches=config.limit_batches,
        limit_val_batches=config.limit_batches,
        num_sanity_val_steps=0,
        callbacks=every,
        plugins=[files],
        logger=False,
        deterministic=True,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    check_devices(trainer, module)
    if config.compile and data.features is not None:
        log.warning("trainer.compile: nothing is compiled, since this run reads features (see cache.enabled)")
    with (
        others(count, place, fit, module.cpu(), data, config, folder, _tell_nobody, resume, callbacks),
        compiled(module.classifier.backbone) if config.compile else nullcontext(),
    ):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoints / LAST if goes_on else None, weights_only=True)
    if place.rank > 0:  # the first process says how it went
        return {}
    if kept.best_epoch is None:
        raise LungtlError(
            f"training ended without a usable epoch ({config.monitor} was never finite); lower optimizer.lr"
        )
    best = files.load_checkpoint(checkpoints / BEST, map_location="cpu", weights_only=True)
    module.load_state_dict(best["state_dict"])
    return {"best_epoch": best["epoch"], "epochs": trainer.current_epoch, config.monitor: best["best"]["value"]}


def _tell_nobody(metrics: dict[str, float], epoch: int) -> None:
    """The first process tells the tracker."""
