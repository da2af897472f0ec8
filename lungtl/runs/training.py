"""Train a run's network: features, loss, Lightning, the weights of the best epoch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from lungtl.data.bags import Features
from lungtl.data.store.reader import Store
from lungtl.evaluation.formatting import plural
from lungtl.models.bag_classifier import BagClassifier
from lungtl.runs.epochs import EpochLines, append_epoch, read_epochs
from lungtl.settings import parts
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import TrainConfig
from lungtl.training.build import standardise
from lungtl.training.datamodule import BagDataModule
from lungtl.training.feature_cache import run_features
from lungtl.training.fit import fit
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from lungtl.training.plan import trainable_share
from lungtl.training.readers import scaled_ratings

if TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback  # which imports torchvision, see `lungtl.models.compat`

log = logging.getLogger(__name__)
OnEpoch = Callable[[Mapping[str, float], int], None]


@dataclass(frozen=True)
class Trained:
    """A network that has just been trained.

    Attributes:
        classifier: with the weights of the best epoch.
        loss: what was minimised, its class weights counted on the training split.
        features: of the store, for the classifier's cut; None reads voxels.
        device: where to compute.
        facts: epochs, best_epoch, seconds, trainable_parameters, and the monitored value.
        unfrozen: epoch, counted from 1 -> names of the groups of the backbone that train from then on.
    """

    classifier: BagClassifier
    loss: BagAndSliceLoss
    features: Features | None
    device: torch.device
    facts: Mapping[str, Any]
    unfrozen: Mapping[int, list[str]] = field(default_factory=dict)


def train(
    config: TrainConfig,
    store: Store,
    split: pd.DataFrame,
    folder: Path,
    classifier: BagClassifier,
    device: torch.device,
    *,
    on_epoch: OnEpoch,
    callbacks: Sequence[Callback] = (),
    resume: bool = False,
) -> Trained:
    """Train a classifier, from the start or from the folder's last checkpoint.

    Args:
        config: of the run.
        store: whose slices.
        split: bag_id, patient_id, label, split.
        folder: gets epochs.csv and checkpoints/.
        classifier: with its starting weights.
        device: where features are computed.
        on_epoch: called with the metrics and the number of each epoch, once they are in epochs.csv.
        callbacks: further Lightning callbacks.
        resume: continue from the last checkpoint.
    """
    freezing = parts.build(config.freezing)
    weights = classifier.backbone.fingerprint()
    freezing.adapt(classifier.backbone)
    trainable, total = trainable_share(classifier, freezing, config.trainer.max_epochs)
    log.info("%s (weights: %s): %.2f of %.2f M parameters train", classifier.backbone.name,
             classifier.backbone.loaded_weights.source, trainable / 1e6, total / 1e6)  # fmt: skip
    features = run_features(config, classifier, freezing, store, device, weights)
    if features is not None:
        standardise(classifier, features, split)
    loss = build_loss(config, store, split, classifier.projection.width)
    module = BagModule(classifier, freezing, loss, config.optimizer, config.schedule, config.trainer.max_epochs,
                       config.image.jitter, config.head.weight_decay)  # fmt: skip
    data = BagDataModule(store, split, config, features, backbone_trains=not freezing.is_frozen(classifier.backbone))

    done = len(read_epochs(folder)) if resume else 0
    lines = EpochLines(config.trainer.max_epochs, done)

    def epoch_ended(metrics: dict[str, float], epoch: int) -> None:
        append_epoch(folder, epoch, metrics)
        lines.ended(epoch, metrics)
        on_epoch(metrics, epoch)

    try:
        fitted = fit(module, data, config.trainer, folder, epoch_ended, resume=resume, callbacks=callbacks)
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(f"stopped in epoch {lines.done + 1} of {config.trainer.max_epochs}") from interrupt
    log.info("trained %s; best epoch: %d", plural(fitted["epochs"], "epoch"), fitted["best_epoch"])
    unfrozen: dict[int, list[str]] = {}
    for group in freezing.groups(classifier.backbone):
        unfrozen.setdefault(group.epoch + 1, []).append(group.name)
    freezing.merge(classifier.backbone)
    if features is not None:
        classifier.cut(classifier.split.blocks)  # the merge may have replaced modules
    facts = {**fitted, "seconds": module.seconds, "trainable_parameters": trainable}
    return Trained(classifier, loss, features, device, facts, unfrozen)


def build_loss(config: TrainConfig, store: Store, split: pd.DataFrame, width: int) -> BagAndSliceLoss:
    """The loss, with its class weights counted on the training split; slices are embedded in `width` numbers."""
    loss: BagAndSliceLoss = parts.build(config.loss)
    training = split[split["split"] == "train"]
    labels = torch.tensor(training["label"].to_numpy())
    if config.trainer.sampler == "balanced":
        labels = labels.unique()  # each class is drawn equally often
    slices = [torch.from_numpy(store.slice_labels(bag_id).astype("int64")) for bag_id in training["bag_id"]]
    loss.count(labels, torch.cat(slices))
    if config.trains_on_ratings:
        if scaled_ratings(store.bags) is None:
            raise UsageError(
                f"loss.readers_weight={config.loss['readers_weight']:g}: {store.name} has no readers' ratings; use "
                "dataset=lidc_slices, or loss.readers_weight=0"
            )
        loss.add_reader_heads(width)
    return loss
