"""Train with Lightning as the config specifies, from the start or from the last checkpoint."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.sections import TrainerConfig
from lungtl.training.callbacks import (
    AveragedWeights,
    EpochBar,
    EpochLog,
    LogMetrics,
    NotifyStrategy,
    StopAfterUnfreezing,
    StopWhenDiverged,
)
from lungtl.training.checkpoints import BEST, CHECKPOINTS, LAST, AtomicCheckpointIO, Checkpoints
from lungtl.training.datamodule import BagDataModule
from lungtl.training.devices import check_precision, device_count
from lungtl.training.module import BagModule
from lungtl.training.processes import StartedRanks, further_ranks, strategy

log = logging.getLogger(__name__)
BAR_RATE = 20  # updates of the progress bar per second; Lightning's 100 cost a tenth of a step on cached features
RECOMPILATIONS = 256  # each unfrozen block causes two; at torch's own limit of 8 it would silently stop compiling


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch, also in loader processes."""
    pl.seed_everything(seed, workers=True, verbose=False)


def fit(
    module: BagModule,
    data: BagDataModule,
    config: TrainerConfig,
    folder: Path,
    log_metrics: LogMetrics,
    resume: bool,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train, then load the weights of the best epoch into the module.

    `log_metrics` is called once per epoch with (metrics, epoch), counted from 1, before the epoch's checkpoint is
    written to `checkpoints/` in the folder: a run that is killed in between logs the same numbers again when resumed.
    `resume` continues from the last checkpoint, or starts over without one. Further callbacks, such as a search's
    pruning, must be picklable with several devices.

    Returns:
        best_epoch, epochs, and the best value of `trainer.monitor`.

    Raises:
        LungtlError: the device does not support the precision, or the freezing strategy several devices; or
            `trainer.monitor` was never finite.
    """
    silence_lightning()
    environment = StartedRanks()
    devices = device_count(config)
    check_precision(config)
    backbone = module.classifier.backbone
    if devices > 1 and module.freezing.last_unfreezing(backbone) > 0:  # DDP synchronises only what trains at first
        problem = "a freezing strategy that unfreezes during training requires one device"
        raise UsageError(f"trainer.devices={devices}: {problem}; use trainer.devices=1")
    if config.compile and data.features is not None:
        log.warning("trainer.compile has no effect: this run reads cached features (cache.enabled)")
    last, best = folder / CHECKPOINTS / LAST, folder / CHECKPOINTS / BEST
    resumed = resume and last.is_file()
    if resume and not resumed:
        log.info("no checkpoint yet: the run starts over")
    if resumed:
        done = int(torch.load(last, map_location="cpu", mmap=True, weights_only=True)["epoch"]) + 1
        log.info("resuming after epoch %d of %d", done, config.max_epochs)
    mode: Literal["min", "max"] = "max" if config.monitor == "val/auroc" else "min"
    checkpoints = Checkpoints(folder / CHECKPOINTS, config.monitor, mode)
    files = AtomicCheckpointIO(module.frozen_state())
    trainer = _trainer(
        config,
        strategy=strategy(devices, environment),
        callbacks=[checkpoints, *_callbacks(config, mode, log_metrics), *callbacks],
        plugins=[files],
        default_root_dir=folder,
    )
    with (
        further_ranks(devices, environment, fit, module.cpu(), data, config, folder, _ignore, resume, callbacks),
        compiled(backbone) if config.compile else nullcontext(),
        explain_single_values(config.batch_size),
    ):
        _fit(trainer, module, data, last if resumed else None)
    if environment.local_rank() > 0:
        return {}
    if checkpoints.best_epoch is None:
        raise LungtlError(f"no epoch is usable ({config.monitor} was never finite); lower optimizer.lr")
    checkpoint = files.load_checkpoint(best, map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    value = checkpoint["best"]["value"]
    return {"best_epoch": checkpoint["epoch"] + 1, "epochs": trainer.current_epoch, config.monitor: value}


def _fit(trainer: pl.Trainer, module: BagModule, data: BagDataModule, checkpoint: Path | None) -> None:
    """Fit; Ctrl-C raises KeyboardInterrupt, as everywhere else, where Lightning exits with 1 and ignores a second."""
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as stopped:
        if not isinstance(stopped.__context__, KeyboardInterrupt):
            raise
        if main:
            signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from stopped


@contextmanager
def explain_single_values(batch_size: int) -> Iterator[None]:
    """Turn torch's error about a batch in which a batch normalisation sees one value into a LungtlError."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise LungtlError(
            f"a batch of one slice is too few for batch normalisation; raise trainer.batch_size (now {batch_size}) or "
            "image.size, or use freezing=frozen"
        ) from error


def _trainer(config: TrainerConfig, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=config.max_epochs,
        accelerator=config.accelerator,
        devices=device_count(config),
        use_distributed_sampler=False,
        reload_dataloaders_every_n_epochs=1,
        precision=config.precision,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=config.clip_norm,
        limit_train_batches=config.limit_batches,
        limit_val_batches=config.limit_batches,
        num_sanity_val_steps=0,
        logger=False,
        deterministic=True,
        enable_model_summary=False,
        enable_progress_bar=sys.stderr.isatty(),
        **options,
    )
    # part of `deterministic`: filling every new tensor would cost a fifth of a step of EfficientNet-Lite0
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return trainer


def _callbacks(config: TrainerConfig, mode: Literal["min", "max"], log_metrics: LogMetrics) -> list[Callback]:
    bars: list[Callback] = [EpochBar(refresh_rate=BAR_RATE, leave=False, console_kwargs={"stderr": True})]
    callbacks: list[Callback] = [
        *(bars if sys.stderr.isatty() else []),
        EpochLog(log_metrics),
        NotifyStrategy(config.monitor, mode),
        StopWhenDiverged(),
    ]
    if config.ema is not None:
        callbacks.append(AveragedWeights(config.ema, check_precision(config)))
    if config.patience is not None:
        callbacks.append(StopAfterUnfreezing(config.monitor, mode, config.patience))
    return callbacks


def _ignore(metrics: dict[str, float], epoch: int) -> None:
    """`log_metrics` of the further ranks, which cannot receive the tracker; only rank 0 logs."""


@contextmanager
def compiled(backbone: nn.Module) -> Iterator[None]:
    """Compile a backbone's forward pass temporarily, for any number of slices; parameters keep their names.

    Raises LungtlError if it cannot be compiled on this machine.
    """
    # imported here, since torch._dynamo takes a second
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException

    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # torch before 2.6
    backbone.forward = torch.compile(backbone.forward, dynamic=True)
    try:
        with config.patch({limit: RECOMPILATIONS}):
            yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).strip().partition("\n\n")[0].split())  # without torch's debugging hints
        raise LungtlError(
            f"trainer.compile=true: torch.compile failed ({reason}); it requires a C++ compiler, and Triton on GPUs; "
            "use trainer.compile=false"
        ) from error
    finally:
        del backbone.forward
        torch.compiler.reset()  # recompilations of a sweep's next run count from 0


def silence_lightning() -> None:
    """Hide messages of Lightning and torch that appear in every run and need no action."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # torch before 2.13 has no other name: https://github.com/pytorch/pytorch/blob/main/torch/nn/parallel/distributed.py
    warnings.filterwarnings("ignore", message=".*broadcast_buffers.* is deprecated.*")
    # loaders of cached features are fastest in the main process:
    # https://lightning.ai/docs/pytorch/stable/advanced/speed.html#dataloaders
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # frozen layers are in evaluation mode on purpose:
    # https://lightning.ai/docs/pytorch/stable/common/lightning_module.html#on-fit-start
    warnings.filterwarnings("ignore", message=".*module\\(s\\) in eval mode at the start of training.*")
    # Lightning 2.6 with torch 2.13: https://github.com/Lightning-AI/pytorch-lightning/blob/master/src/lightning/pytorch/utilities/_pytree.py
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
