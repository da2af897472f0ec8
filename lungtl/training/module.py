"""The classifier as a Lightning module."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics.functional.classification import binary_auroc

from lungtl.data.bags import Batch, dihedral, turned
from lungtl.models.bag_classifier import BagClassifier, BagOutput, ImageChange
from lungtl.models.collectives import all_gather, all_reduce_sum, average_batch_norm_statistics, rank
from lungtl.models.freezing.base import FreezingStrategy, set_train_mode
from lungtl.settings import parts
from lungtl.settings.errors import UsageError
from lungtl.settings.sections import JitterConfig
from lungtl.training.jitter import jitter
from lungtl.training.losses import BagAndSliceLoss, Part, scale_for_ddp, sum_parts

log = logging.getLogger(__name__)
PLATEAU_MONITOR = "val/loss"


class BagModule(pl.LightningModule):
    """Trains a `BagClassifier`.

    `freezing` has already adapted the backbone. `optimizer` and `schedule` are configs; the optimiser's `lr` is the
    head's learning rate; `head_weight_decay` replaces its weight decay for head and aggregator. `jitter` are the
    amounts for batches with seeds.

    Raises:
        UsageError: no part of the loss trains the aggregator, or none trains anything.
    """

    def __init__(
        self,
        classifier: BagClassifier,
        freezing: FreezingStrategy,
        loss: BagAndSliceLoss,
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        max_epochs: int,
        jitter: JitterConfig | None = None,
        head_weight_decay: float | None = None,
    ) -> None:
        super().__init__()
        aggregator_trains = any(parameter.requires_grad for parameter in classifier.aggregator.parameters())
        if loss.part_weights["bag_loss"] == 0 and (aggregator_trains or loss.part_weights["slice_loss"] == 0):
            raise UsageError(
                "loss.bag_weight=0 trains on slices only: use loss.slice_weight above 0 and an aggregator without "
                "parameters, such as aggregator=mean aggregator.level=instance"
            )
        self.classifier = classifier
        self.freezing = freezing
        self.loss = loss
        self.optimizer_config, self.schedule_config = optimizer, schedule
        self.max_epochs = max_epochs
        self.jitter = jitter
        self.head_weight_decay = head_weight_decay
        self._start, self._earlier_seconds = time.monotonic(), 0.0
        self._training: list[tuple[int, Tensor, dict[str, Part]]] = []
        self._validation: list[tuple[Tensor, Tensor]] = []
        self._validation_parts: list[dict[str, Part]] = []
        freezing.apply(classifier.backbone, epoch=0)

    def forward(self, batch: Batch) -> BagOutput:
        """Classify a batch, each bag in its view; from cached features if it has them."""
        if batch.features is not None:
            return self.classifier.classify(batch.features, batch.positions)
        assert batch.frames is not None
        output: BagOutput = self.classifier(
            [dihedral(frames, view) for frames, view in zip(batch.frames, batch.views, strict=True)],
            batch.positions,
            [turned(spacing, view) for spacing, view in zip(batch.spacings, batch.views, strict=True)],
            self._changes(batch),
        )
        return output

    def _changes(self, batch: Batch) -> list[ImageChange] | None:
        """What the jitter does to each bag's images."""
        if self.jitter is None or batch.seeds is None:
            return None
        preprocessor = self.classifier.preprocessor
        return [partial(jitter, amounts=self.jitter, seed=seed, preprocessor=preprocessor) for seed in batch.seeds]

    def frozen_state(self) -> dict[str, Tensor]:
        """The part of the state dict that training never changes: weights and statistics of frozen layers."""
        backbone = self.classifier.backbone
        layers = {name.rpartition(".")[0] for group in self.freezing.groups(backbone) for name in group.parameters}
        state = backbone.state_dict()
        return {
            f"classifier.backbone.{key}": value for key, value in state.items() if key.rpartition(".")[0] not in layers
        }

    @property
    def seconds(self) -> float:
        """Training time since the module was created, plus that of earlier attempts up to their last checkpoint."""
        return self._earlier_seconds + time.monotonic() - self._start

    def on_train_epoch_start(self) -> None:
        """Unfreeze what the strategy unfreezes now, and set the modes, which Lightning leaves as they are."""
        backbone = self.classifier.backbone
        self.freezing.apply(backbone, self.current_epoch)
        self.train()
        self._training.clear()
        unfrozen = [group.name for group in self.freezing.groups(backbone) if 0 < group.epoch == self.current_epoch]
        if unfrozen:
            log.info("epoch %d: unfreezing %s", self.current_epoch + 1, ", ".join(unfrozen))
        # at the epoch's end the scheduler has already stepped
        self.log("lr", float(self.trainer.optimizers[0].param_groups[0]["lr"]), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the strategy's decisions, the training time and each rank's random state."""
        checkpoint["freezing"] = self.freezing.state()
        checkpoint["seconds"] = self.seconds
        state, device = {"cpu": torch.get_rng_state()}, self.trainer.strategy.root_device
        if device.type != "cpu":
            state[device.type] = torch.get_device_module(device).get_rng_state(device)
        checkpoint["random_state"] = all_gather(state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        self.freezing.restore(checkpoint["freezing"])
        self._earlier_seconds = checkpoint["seconds"]
        if rank() >= len(checkpoint["random_state"]):  # resumed with more devices
            return
        state, device = checkpoint["random_state"][rank()], self.trainer.strategy.root_device
        torch.set_rng_state(state["cpu"].cpu())
        if device.type != "cpu" and device.type in state:  # it may be resumed on another kind of device
            torch.get_device_module(device).set_rng_state(state[device.type].cpu(), device)

    def train(self, mode: bool = True) -> BagModule:
        """Set train mode, except for frozen layers, which keep their batch-norm statistics."""
        super().train(mode)
        if mode:
            set_train_mode(self.classifier.backbone)
        return self

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """The batch's loss; under DDP scaled such that the mean over the ranks is."""
        scaled = scale_for_ddp(self.loss.parts(self(batch), batch.bag_labels, batch.slice_labels, batch.ratings))
        loss = self.loss.combined(scaled)
        detached = {name: Part(part.numerator.detach(), part.denominator) for name, part in scaled.items()}
        self._training.append((len(batch.bag_ids), loss.detach(), detached))
        if batch_index + 1 == self.trainer.num_training_batches:
            self._log_training()
        factor = self._accumulation_factor(batch_index)
        return loss if factor == 1 else loss * factor

    def _accumulation_factor(self, batch_index: int) -> float:
        """Undoes that Lightning divides by `trainer.accumulate` even in a last step of fewer batches."""
        window, batches = self.trainer.accumulate_grad_batches, int(self.trainer.num_training_batches)
        remainder = batches % window
        return window / remainder if batch_index >= batches - remainder else 1.0

    def _log_training(self) -> None:
        """Log the epoch's losses: means over batches, weighted by bags; of a part, over batches with labels for it."""
        # at once: logging each step would take longer than a step on cached features
        counts = all_reduce_sum(torch.tensor([float(count) for count, *_ in self._training], device=self.device))
        means = {"loss": (counts * torch.stack([loss for _, loss, _ in self._training])).sum() / counts.sum()}
        for name in self._training[0][2]:
            numerators, denominators = torch.stack([torch.stack(batch[name]) for *_, batch in self._training]).T
            known = denominators > 0
            if known.any():
                weights = counts[known] / counts[known].sum()
                means[name] = (weights * numerators[known] / denominators[known]).sum()
        for name, mean in means.items():
            self.log(
                f"train/{name}", mean, on_step=False, on_epoch=True, prog_bar=name == "loss", batch_size=1,
                sync_dist=True,
            )  # fmt: skip
        self._training.clear()

    def on_validation_start(self) -> None:
        """Give all ranks the same batch-norm statistics, which the checkpoint contains."""
        average_batch_norm_statistics(self.classifier)

    def on_validation_epoch_start(self) -> None:
        """Likewise for the averaged weights, which may have replaced the weights since, with their own statistics."""
        average_batch_norm_statistics(self.classifier)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Collect what the epoch's loss and AUROC need."""
        output = self(batch)
        self._validation_parts.append(self.loss.parts(output, batch.bag_labels, batch.slice_labels))
        # on the CPU: ranking needs a cumulative sum, which is not deterministic on CUDA, and float64, which MPS lacks
        self._validation.append((output.bag_logits.detach().cpu(), batch.bag_labels.cpu().long()))

    def on_validation_epoch_end(self) -> None:
        """Log loss and AUROC of all bags, independent of batches and ranks.

        The AUROC is 0.5 if only one class is present, and NaN if a logit is not finite.
        """
        losses = self.loss.total(sum_parts(self._validation_parts))
        self._validation_parts.clear()
        for name, value in losses.items():
            self.log(f"val/{name}", value, prog_bar=name == "loss", sync_dist=True)
        batches = [batch for batches in all_gather(self._validation) for batch in batches]
        logits, labels = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
        self._validation.clear()
        # float64 probabilities: torchmetrics takes values outside 0..1 for logits, and float32 sigmoids of confident
        # logits tie
        both_classes = 0 < int(labels.sum()) < len(labels)
        auroc = binary_auroc(logits.double().sigmoid(), labels) if both_classes else torch.tensor(0.5)
        auroc = auroc.float() if logits.isfinite().all() else torch.tensor(math.nan)
        self.log("val/auroc", auroc, prog_bar=True, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Step a schedule that follows a metric; Lightning would do so only after the checkpoint is written."""
        schedule = self.lr_schedulers()
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(self.trainer.callback_metrics[PLATEAU_MONITOR])

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step any other schedule."""
        if metric is None:
            scheduler.step()

    def configure_optimizers(self) -> Any:
        """Head and aggregator at the full learning rate, the backbone as the strategy specifies."""
        lr = float(self.optimizer_config["lr"])
        backbone = {id(p) for p in self.classifier.backbone.parameters()}
        head = [p for p in [*self.classifier.parameters(), *self.loss.parameters()] if id(p) not in backbone]
        decay = {} if self.head_weight_decay is None else {"weight_decay": self.head_weight_decay}
        groups = [
            {"name": "head", "params": head, "lr": lr, **decay},
            *self.freezing.parameter_groups(self.classifier.backbone, lr),
        ]
        optimizer = parts.build(self.optimizer_config, params=groups)
        takes_length = "max_epochs" in parts.signature(str(self.schedule_config[parts.TARGET]), "schedule")
        length = {"max_epochs": self.max_epochs} if takes_length else {}
        schedule = parts.build(self.schedule_config, optimizer=optimizer, **length)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": PLATEAU_MONITOR}}
