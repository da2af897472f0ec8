"""The classifier as a Lightning module."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from lungtl.data.augment import dihedral
from lungtl.data.bags import Batch
from lungtl.models.bag_classifier import BagClassifier, BagOutput
from lungtl.models.collective import gathered, rank, summed
from lungtl.models.freezing.base import FreezingStrategy, set_train_mode
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import OptimizerConfig
from lungtl.training.losses import BagAndSliceLoss, Part
from lungtl.training.norm_statistics import pool_statistics
from lungtl.training.shared_loss import added, own_share

log = logging.getLogger(__name__)


class BagModule(pl.LightningModule):
    """Trains a `BagClassifier`.

    Args:
        classifier: the network.
        freezing: which of the backbone's parameters train; has adapted the backbone already.
        loss: what is minimised.
        optimizer: of everything that trains.
        max_epochs: the length of the learning-rate schedule.

    Raises:
        UsageError: the loss has no part that trains the aggregator, or none at all.
    """

    def __init__(
        self,
        classifier: BagClassifier,
        freezing: FreezingStrategy,
        loss: BagAndSliceLoss,
        optimizer: OptimizerConfig,
        max_epochs: int,
    ) -> None:
        super().__init__()
        learns = any(parameter.requires_grad for parameter in classifier.aggregator.parameters())
        if loss.part_weights["bag_loss"] == 0 and (learns or loss.part_weights["slice_loss"] == 0):
            raise UsageError(
                "loss.bag_weight=0 trains slices alone: give loss.slice_weight above 0 and an aggregator that has "
                "nothing to learn, such as aggregator=mean aggregator.level=instance"
            )
        self.classifier = classifier
        self.freezing = freezing
        self.loss = loss
        self.optimizer_config = optimizer
        self.max_epochs = max_epochs
        self._began, self._earlier = time.monotonic(), 0.0
        self._training: list[tuple[int, Tensor, dict[str, Part]]] = []
        self._validation: list[tuple[Tensor, Tensor]] = []
        self._validation_parts: list[dict[str, Part]] = []
        freezing.apply(classifier.backbone, epoch=0)

    def forward(self, batch: Batch) -> BagOutput:
        """Classify a batch, from cached features where it has them, each bag in its view."""
        if batch.features is not None:
            return self.classifier.classify(batch.features, batch.positions)
        assert batch.frames is not None
        output: BagOutput = self.classifier(
            [dihedral(frames, view) for frames, view in zip(batch.frames, batch.views, strict=True)], batch.positions
        )
        return output

    def frozen_state(self) -> dict[str, Tensor]:
        """What training leaves as it is, of the state dict: the weights and statistics of layers that never train."""
        backbone = self.classifier.backbone
        layers = {name.rpartition(".")[0] for group in self.freezing.groups(backbone) for name in group.parameters}
        state = backbone.state_dict()
        return {
            f"classifier.backbone.{key}": value for key, value in state.items() if key.rpartition(".")[0] not in layers
        }

    @property
    def seconds(self) -> float:
        """What training took so far, from the module's making; of a run that goes on, all of its attempts.

        Of an attempt that was killed it is the time until its last checkpoint.
        """
        return self._earlier + time.monotonic() - self._began

    def on_train_epoch_start(self) -> None:
        """Thaw what the strategy thaws now; Lightning itself leaves the modes as it finds them."""
        backbone = self.classifier.backbone
        self.freezing.apply(backbone, self.current_epoch)
        self.train()
        self._training.clear()
        thawed = [group.name for group in self.freezing.groups(backbone) if 0 < group.epoch == self.current_epoch]
        if thawed:
            log.info("epoch %d: %s trains from now on", self.current_epoch, ", ".join(thawed))
        # here, since the scheduler has stepped when the epoch ends
        self.log("lr", float(self.trainer.optimizers[0].param_groups[0]["lr"]), sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the strategy has decided, what training took, and the random state.

        A resumed run draws what it would have drawn.
        """
        checkpoint["freezing"] = self.freezing.state()
        checkpoint["seconds"] = self.seconds
        state, device = {"cpu": torch.get_rng_state()}, self.trainer.strategy.root_device
        if device.type != "cpu":
            state[device.type] = torch.get_device_module(device).get_rng_state(device)
        checkpoint["random_state"] = gathered(state)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        self.freezing.restore(checkpoint["freezing"])
        self._earlier = checkpoint["seconds"]
        if rank() >= len(checkpoint["random_state"]):  # the run goes on in more processes
            return
        state, device = checkpoint["random_state"][rank()], self.trainer.strategy.root_device
        torch.set_rng_state(state["cpu"].cpu())
        if device.type != "cpu" and device.type in state:  # the run may go on elsewhere
            torch.get_device_module(device).set_rng_state(state[device.type].cpu(), device)

    def train(self, mode: bool = True) -> BagModule:
        """Train mode for what trains; frozen parts keep their batch-norm statistics."""
        super().train(mode)
        if mode:
            set_train_mode(self.classifier.backbone)
        return self

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """One batch's loss, or this process's share of it."""
        parts = own_share(self.loss.parts(self(batch), batch.bag_labels, batch.slice_labels))
        loss = self.loss.combined(parts)
        seen = {name: Part(part.numerator.detach(), part.denominator) for name, part in parts.items()}
        self._training.append((len(batch.bag_ids), loss.detach(), seen))
        if batch_index + 1 == self.trainer.num_training_batches:
            self._log_training()
        share = self._window_share(batch_index)
        return loss if share == 1 else loss * share

    def _window_share(self, batch_index: int) -> float:
        """What makes the gradient of a step the mean of its batches'.

        Lightning divides by `trainer.accumulate` in an epoch's last step too, which may have fewer batches.
        """
        window, batches = self.trainer.accumulate_grad_batches, int(self.trainer.num_training_batches)
        rest = batches % window
        return window / rest if batch_index >= batches - rest else 1.0

    def _log_training(self) -> None:
        """The epoch's losses at once: a call for each step would take longer than a step on cached features.

        They are means over the batches, each weighted by its bags; of a part, over those that say something of it.
        """
        counts = summed(torch.tensor([float(count) for count, *_ in self._training], device=self.device))
        means = {"loss": (counts * torch.stack([loss for _, loss, _ in self._training])).sum() / counts.sum()}
        for name in self._training[0][2]:
            numerators, denominators = torch.stack([torch.stack(parts[name]) for *_, parts in self._training]).T
            known = denominators > 0
            if known.any():
                weights = counts[known] / counts[known].sum()
                means[name] = (weights * numerators[known] / denominators[known]).sum()
        for name, mean in means.items():
            self.log(
                f"train/{name}",
                mean,
                on_step=False,
                on_epoch=True,
                prog_bar=name == "loss",
                batch_size=1,
                sync_dist=True,
            )
        self._training.clear()

    def on_validation_start(self) -> None:
        """All processes go on with the same statistics of batch norm: those that a checkpoint keeps."""
        pool_statistics(self.classifier)

    def on_validation_epoch_start(self) -> None:
        """The average of the weights, which may have taken their place by now, has statistics of its own."""
        pool_statistics(self.classifier)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Collect what the epoch's loss and AUROC need."""
        output = self(batch)
        self._validation_parts.append(self.loss.parts(output, batch.bag_labels, batch.slice_labels))
        # on the CPU: ranking sums cumulatively, for which CUDA has no deterministic kernel, and MPS has no float64
        self._validation.append((output.bag_logits.detach().cpu(), batch.bag_labels.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log the loss of the epoch, and its AUROC: 0.5 where one class alone is there, which cannot be ranked.

        Both are those of all bags at once, however they were batched, and whichever process has seen them. Where a
        logit is not finite the AUROC is NaN.
        """
        parts = added(self._validation_parts)
        self._validation_parts.clear()
        for name, value in self.loss.total(parts).items():
            self.log(f"val/{name}", value, prog_bar=name == "loss", sync_dist=True)
        logits, labels = (
            torch.cat(seen) for seen in zip(*(bags for own in gathered(self._validation) for bags in own), strict=True)
        )
        self._validation.clear()
        # float64 probabilities: torchmetrics takes values outside 0..1 for logits batch by batch, and float32
        # sigmoids of confident logits tie
        both = 0 < int(labels.sum()) < len(labels)
        auroc = binary_auroc(logits.double().sigmoid(), labels) if both else torch.tensor(0.5)
        auroc = auroc.float() if logits.isfinite().all() else torch.tensor(math.nan)
        self.log("val/auroc", auroc, prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Head and aggregator at the full learning rate, the backbone as the strategy says."""
        config = self.optimizer_config
        backbone = {id(p) for p in self.classifier.backbone.parameters()}
        head = [p for p in self.classifier.parameters() if id(p) not in backbone]
        groups = [
            {"name": "head", "params": head, "lr": config.lr},
            *self.freezing.parameter_groups(self.classifier.backbone, config.lr),
        ]
        optimizer: torch.optim.Optimizer
        if config.name == "adamw":
            optimizer = torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
        else:
            optimizer = torch.optim.SGD(
                groups, lr=config.lr, weight_decay=config.weight_decay, momentum=config.momentum
            )
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, self._lr_factor)}

    def _lr_factor(self, epoch: int) -> float:
        """Linear warm-up, then constant or a half cosine down to zero after the last epoch."""
        warmup = self.optimizer_config.warmup_epochs
        if epoch < warmup:
            return (epoch + 1) / (warmup + 1)
        if self.optimizer_config.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / max(1, self.max_epochs - warmup)))
