"""The classifier as a Lightning module."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from lungtl.config import OptimizerConfig
from lungtl.data.augment import dihedral
from lungtl.data.bags import Batch
from lungtl.models.bag_classifier import BagClassifier, BagOutput
from lungtl.models.freezing.base import FreezingStrategy, set_train_mode
from lungtl.training.losses import BagAndSliceLoss

log = logging.getLogger(__name__)


class BagModule(pl.LightningModule):
    """Trains a `BagClassifier`.

    Args:
        classifier: the network.
        freezing: which of the backbone's parameters train; has adapted the backbone already.
        loss: what is minimised.
        optimizer: of everything that trains.
        max_epochs: the length of the learning-rate schedule.
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
        self.classifier = classifier
        self.freezing = freezing
        self.loss = loss
        self.optimizer_config = optimizer
        self.max_epochs = max_epochs
        self._validation: list[tuple[Tensor, Tensor]] = []
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

    def on_train_epoch_start(self) -> None:
        """Thaw what the strategy thaws now; Lightning itself leaves the modes as it finds them."""
        backbone = self.classifier.backbone
        self.freezing.apply(backbone, self.current_epoch)
        self.train()
        thawed = [group.name for group in self.freezing.groups(backbone) if 0 < group.epoch == self.current_epoch]
        if thawed:
            log.info("epoch %d: %s trains from now on", self.current_epoch, ", ".join(thawed))
        # here, since the scheduler has stepped when the epoch ends
        self.log("lr", float(self.trainer.optimizers[0].param_groups[0]["lr"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the strategy has decided, and the random state: a resumed run draws what it would have drawn."""
        checkpoint["freezing"] = self.freezing.state()
        checkpoint["random_state"] = {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore them."""
        self.freezing.restore(checkpoint["freezing"])
        torch.set_rng_state(checkpoint["random_state"]["cpu"].cpu())
        states = checkpoint["random_state"]["cuda"]
        if len(states) == torch.cuda.device_count():  # the run may go on elsewhere
            torch.cuda.set_rng_state_all([state.cpu() for state in states])

    def train(self, mode: bool = True) -> BagModule:
        """Train mode for what trains; frozen parts keep their batch-norm statistics."""
        super().train(mode)
        if mode:
            set_train_mode(self.classifier.backbone)
        return self

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        """One batch's loss."""
        losses = self.loss(self(batch), batch.bag_labels, batch.slice_labels)
        self._log(losses, "train", len(batch.bag_ids))
        loss: Tensor = losses["loss"]
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Collect what the epoch's AUROC needs."""
        output = self(batch)
        self._log(self.loss(output, batch.bag_labels, batch.slice_labels), "val", len(batch.bag_ids))
        # on the CPU: ranking sums cumulatively, for which CUDA has no deterministic kernel, and MPS has no float64
        self._validation.append((output.bag_logits.detach().cpu(), batch.bag_labels.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log the epoch's AUROC; 0.5 where only one class is there, since nothing can be ranked then; NaN of NaN."""
        logits, labels = (torch.cat(parts) for parts in zip(*self._validation, strict=True))
        self._validation.clear()
        # float64 probabilities: torchmetrics takes values outside 0..1 for logits batch by batch, and float32
        # sigmoids of confident logits tie
        both = 0 < int(labels.sum()) < len(labels)
        auroc = binary_auroc(logits.double().sigmoid(), labels) if both else torch.tensor(0.5)
        auroc = auroc.float() if logits.isfinite().all() else torch.tensor(math.nan)
        self.log("val/auroc", auroc, prog_bar=True)

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

    def _log(self, losses: dict[str, Tensor], stage: str, count: int) -> None:
        for name, value in losses.items():
            shown = name == "loss"
            self.log(f"{stage}/{name}", value, on_step=False, on_epoch=True, batch_size=count, prog_bar=shown)
