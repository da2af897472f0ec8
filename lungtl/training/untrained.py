"""Controls with random weights.

What a head and an aggregator make of a backbone that has learned nothing, and where an aggregator looks that has
learned nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lungtl.data.bags import Features
from lungtl.data.store.reader import Store
from lungtl.models.aggregators.base import Aggregator, uniform_weights
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.inference import predict_bags
from lungtl.models.slice_projection import SliceProjection
from lungtl.settings import parts
from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import TrainConfig
from lungtl.sources.base import fingerprint
from lungtl.training.build import build_classifier
from lungtl.training.datamodule import BagDataModule
from lungtl.training.feature_cache import cached_features
from lungtl.training.fit import fit, seed_everything
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

SEED = 1_000_003
"""Of the random weights: the same for all runs, so that a sweep computes their features once; and hardly any run's own
seed, since with backbone.weights=none the control would then be the run itself."""

DRAWS = 10
"""Of an aggregator's random weights: where a single one looks is luck."""

NOISE_IMAGES = 16
"""Whose statistics a random backbone's batch norms are given."""


@dataclass(frozen=True)
class Untrained:
    """The control of a run: its head and aggregator, trained on a frozen backbone with random weights.

    Attributes:
        classifier: its backbone is random.
        features: what the backbone computes of the store's slices; None reads voxels.
        fingerprint: of the backbone, as `draw_classifier` gives it.
    """

    classifier: BagClassifier
    features: Features | None
    fingerprint: str


def train_untrained(
    config: TrainConfig, store: Store, split: pd.DataFrame, loss: BagAndSliceLoss, device: torch.device
) -> Untrained | None:
    """Train the control of a run, with the run's own settings and seed.

    The backbone stays frozen and slices are not augmented, whatever the run does with its own: that costs one pass
    over the store, shared by all runs of a backbone and image size, and the training of a head.

    Args:
        config: of the run.
        store: whose slices.
        split: bag_id, patient_id, label, split.
        loss: of the run; not changed.
        device: where to compute features.

    Returns:
        None, and the reason in the log, where the features cannot be kept or training finds no usable epoch: no reason
        to lose a run that is trained already.
    """
    if not config.cache.enabled:
        log.warning("no untrained control: it needs the feature cache (cache.enabled=true)")
        return None
    config = config.model_copy(
        update={
            "backbone": {**config.backbone, "weights": "none"},
            "freezing": {parts.TARGET: f"{Frozen.__module__}.{Frozen.__name__}"},
            "image": config.image.model_copy(update={"augment": "none"}),
            "trainer": config.trainer.model_copy(update={"devices": 1, "compile": False}),
        }
    )
    classifier, weights = draw_classifier(lambda: build_classifier(config, store.value_range))
    try:
        features = _features(config, classifier, store, device, weights)
        log.info("training the untrained control: the same head and aggregator on a random backbone")
        seed_everything(config.seed)
        classifier = _with_fresh_head(classifier, config)
        classifier.backbone.net = nn.Identity()  # its features are there; checkpoints hold the head alone
        module = BagModule(classifier, Frozen(), loss, config.optimizer, config.trainer.max_epochs)
        data = BagDataModule(store, split, config, features, backbone_trains=False)
        with TemporaryDirectory() as folder:
            fit(module, data, config.trainer, Path(folder), lambda *_: None, resume=False)
    except LungtlError as error:  # the run itself is trained and will be scored
        log.warning("no untrained control: %s", error)
        return None
    return Untrained(classifier, features, weights)


def draw_classifier(build: Callable[[], BagClassifier]) -> tuple[BagClassifier, str]:
    """Build a classifier with random weights and let its backbone pass signals on.

    Args:
        build: gives the classifier, the backbone's weights drawn first.

    Returns:
        The classifier in evaluation mode, and the fingerprint of its backbone: of what was drawn and of how the
        batch-norm statistics came about. These themselves differ in the last digits between machines.
    """
    with random_weights():
        classifier = build().eval()
    backbone = classifier.backbone
    drawn = {"weights": backbone.fingerprint(), "noise_images": NOISE_IMAGES, "noise_seed": SEED}
    take_noise_statistics(backbone, classifier.preprocessor.size)
    return classifier, fingerprint(drawn)


def take_noise_statistics(backbone: TimmBackbone, size: int) -> None:
    """Give every batch norm the mean and variance that it meets when noise passes the backbone.

    With the statistics that a new network has, mean 0 and variance 1, the signal of a deep network with random weights
    shrinks from layer to layer; embeddings of efficientnet_b0 would differ by millionths from slice to slice. Noise
    and not the store's slices: the control is to know nothing of CT, and to be drawn again without the store.

    Args:
        backbone: in evaluation mode, and so it stays.
        size: pixels a side of its images.
    """
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average over all batches, which are one
        norm.train()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        backbone(torch.randn(NOISE_IMAGES, backbone.in_chans, size, size, generator=generator))
    backbone.eval()


def untrained_weights(
    classifier: BagClassifier,
    aggregator: Mapping[str, Any],
    store: Store,
    bag_ids: Sequence[str],
    features: Features | None,
    device: torch.device,
) -> pd.DataFrame:
    """Where the classifier's aggregator would look as it was initialised, on the embeddings that the trained one sees.

    It is initialised `DRAWS` times; the embeddings are computed once.

    Args:
        classifier: trained.
        aggregator: its config (`_target_` and options).
        store: where the bags lie.
        bag_ids: which.
        features: as for `predict_bags`.
        device: where to compute.

    Returns:
        bag_id, index, weight_0, weight_1, ...: a row a slice.
    """
    with random_weights():
        dim = classifier.projection.linear.out_features
        fresh = [parts.build(aggregator, dim=dim).eval().to(device) for _ in range(DRAWS)]
    seeing = _Seeing()
    other = BagClassifier(classifier.preprocessor, classifier.backbone, classifier.projection, seeing)
    other.slice_head, other.split = classifier.slice_head, classifier.split
    table = predict_bags(other, store, bag_ids, features, device).slices[["bag_id", "index"]]
    with torch.inference_mode():
        weights = [torch.cat([one(*seen)[1][seen[2]] for seen in seeing.batches]).cpu().double() for one in fresh]
    return table.assign(**{f"weight_{k}": drawn.numpy() for k, drawn in enumerate(weights)})


@contextmanager
def random_weights() -> Iterator[None]:
    """Draw weights from `SEED` for a while; nothing else that is drawn depends on it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield


class _Seeing(Aggregator):
    """Keeps what an aggregator is given: embeddings, slice logits and mask of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        self.batches.append((embeddings, slice_logits, mask))
        return slice_logits.new_zeros(len(mask)), uniform_weights(mask)


def _features(
    config: TrainConfig, classifier: BagClassifier, store: Store, device: torch.device, weights: str
) -> Features:
    cache = config.cache
    features = cached_features(
        classifier, store, config.data_dir, device, weights, precision=cache.precision, max_gb=cache.max_gb
    )
    if features is None:
        raise LungtlError(f"the features of a random backbone exceed cache.max_gb={cache.max_gb:g}; raise it")
    return features


def _with_fresh_head(classifier: BagClassifier, config: TrainConfig) -> BagClassifier:
    backbone = classifier.backbone
    projection = SliceProjection(backbone.dim, config.head.width, config.head.dropout)
    aggregator = parts.build(config.aggregator, dim=config.head.width)
    return BagClassifier(classifier.preprocessor, backbone, projection, aggregator)
