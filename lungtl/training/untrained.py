"""Controls with random weights.

`train_untrained`: the same head and aggregator on a backbone that has learned nothing; `untrained_weights`: the slice
weights of an aggregator that has learned nothing.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lungtl.data.bags import Features
from lungtl.data.store.reader import Store
from lungtl.models.backbones.base import Backbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.inference import predict_bags
from lungtl.models.slice_projection import SliceProjection
from lungtl.settings import parts
from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import TrainConfig
from lungtl.sources.base import fingerprint
from lungtl.training.build import build_classifier, standardise
from lungtl.training.datamodule import BagDataModule
from lungtl.training.feature_cache import cached_features
from lungtl.training.fit import fit, seed_everything
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule

log = logging.getLogger(__name__)

# Seed of the random weights: the same for all runs, so that a sweep computes their features once, and unlikely to be a
# run's own, since with backbone.weights=none the control would equal the run.
SEED = 1_000_003
DRAWS = 10  # random initialisations of an aggregator, since the slice weights of a single one depend on chance
NOISE_IMAGES = 16  # images that determine the batch-norm statistics of a random backbone


@dataclass(frozen=True)
class Untrained:
    """A run's untrained control: its head and aggregator, trained on a frozen backbone with random weights."""

    classifier: BagClassifier  # with a random backbone
    features: Features | None  # of the store's slices; None reads voxels
    fingerprint: str  # of the backbone, see `draw_classifier`


def train_untrained(
    config: TrainConfig, store: Store, split: pd.DataFrame, loss: BagAndSliceLoss, device: torch.device
) -> Untrained | None:
    """Train the control of a run, with the run's own settings and seed.

    Its backbone is frozen and slices are not augmented, whatever the run does. This costs one pass over the store,
    shared by all runs with the same backbone and image size, and the training of a head. Returns None, with a warning,
    if features cannot be cached or no epoch is usable: the run itself is already trained.
    """
    if not config.cache.enabled:
        log.warning("no untrained control: it requires the feature cache (cache.enabled=true)")
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
    cache = config.cache
    try:
        features = cached_features(
            classifier, store, config.data_dir, device, weights, classifier.views, cache.precision, cache.max_gb
        )
        if features is None:
            raise LungtlError(f"the features of a random backbone exceed cache.max_gb={cache.max_gb:g}; raise it")
        log.info("training the untrained control: same head and aggregator, random backbone")
        seed_everything(config.seed)
        dim = classifier.backbone.dim * classifier.preprocessor.scales
        projection = SliceProjection(dim, config.head.width, config.head.dropout)
        aggregator = parts.build(config.aggregator, dim=projection.width)
        views, backbone = classifier.views, classifier.backbone
        classifier = BagClassifier(classifier.preprocessor, backbone, projection, aggregator, views=views)
        for name, _ in list(classifier.backbone.named_children()):  # its features are cached
            setattr(classifier.backbone, name, nn.Identity())
        standardise(classifier, features, split)
        loss = copy.deepcopy(loss)
        if loss.reader_heads is not None:  # those of the run have been trained
            loss.add_reader_heads(projection.width)
        module = BagModule(classifier, Frozen(), loss, config.optimizer, config.schedule, config.trainer.max_epochs,
                           head_weight_decay=config.head.weight_decay)  # fmt: skip
        data = BagDataModule(store, split, config, features, backbone_trains=False)
        with TemporaryDirectory() as folder:
            fit(module, data, config.trainer, Path(folder), lambda *_: None, resume=False)
    except LungtlError as error:
        log.warning("no untrained control: %s", error)
        return None
    return Untrained(classifier, features, weights)


def draw_classifier(build: Callable[[], BagClassifier]) -> tuple[BagClassifier, str]:
    """Build a classifier whose backbone, drawn first by `build`, has random weights and suitable batch-norm statistics.

    Returns it in evaluation mode, and a fingerprint of the backbone: of the drawn weights and of how the batch-norm
    statistics were computed, since these vary between machines by rounding.
    """
    with fixed_seed():
        classifier = build().eval()
    backbone = classifier.backbone
    origin = {"weights": backbone.fingerprint(), "noise_images": NOISE_IMAGES, "noise_seed": SEED}
    set_noise_statistics(backbone, classifier.preprocessor.size)
    return classifier, fingerprint(origin)


def set_noise_statistics(backbone: Backbone, size: int) -> None:
    """Set the statistics of all batch norms to those of their inputs when the network processes noise.

    With a new network's mean 0 and variance 1, the signal of a deep random network shrinks from layer to layer:
    embeddings of efficientnet_b0 would differ between slices by millionths. Noise, not the store's slices, since the
    control must know nothing of CT and be reproducible without the store.
    """
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # average over all batches, here a single one
        norm.train()
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(NOISE_IMAGES, backbone.in_chans, size, size, generator=generator)
    with torch.no_grad():  # float64, since a random network amplifies rounding, which varies with the number of threads
        backbone.double()(noise.double())
    backbone.float().eval()


def untrained_weights(
    classifier: BagClassifier,
    aggregator: Mapping[str, Any],
    store: Store,
    bag_ids: Sequence[str],
    features: Features | None,
    device: torch.device,
) -> pd.DataFrame:
    """Slice weights of `DRAWS` newly initialised aggregators on the embeddings of a trained classifier.

    Args are those of `predict_bags`, and the aggregator's config (`_target_` and options).

    Returns:
        bag_id, index, weight_0, weight_1, ...: one row per slice.
    """
    with fixed_seed():
        dim = classifier.projection.width
        aggregators = [parts.build(aggregator, dim=dim).eval().to(device) for _ in range(DRAWS)]
    batches: list[tuple[Tensor, ...]] = []  # embeddings, slice logits and mask
    hook = classifier.aggregator.register_forward_pre_hook(lambda _, inputs: batches.append(inputs[:3]))
    views, classifier.views = classifier.views, 1
    try:
        table = predict_bags(classifier, store, bag_ids, features, device).slices[["bag_id", "index"]]
    finally:
        hook.remove()
        classifier.views = views
    with torch.inference_mode():
        weights = [torch.cat([one(*inputs)[1][inputs[2]] for inputs in batches]).cpu().double() for one in aggregators]
    return table.assign(**{f"weight_{k}": drawn.numpy() for k, drawn in enumerate(weights)})


@contextmanager
def fixed_seed() -> Iterator[None]:
    """Draw random numbers from `SEED` without affecting torch's random state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        yield
