"""Build the network from a config."""

from __future__ import annotations

import logging

import pandas as pd
import torch

from lungtl.data.bags import Features
from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.mean_max import MeanMax
from lungtl.models.backbones.base import Backbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.slice_projection import SliceProjection
from lungtl.settings import parts
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import TrainConfig

log = logging.getLogger(__name__)


def build_classifier(config: TrainConfig, value_range: tuple[int, int] | None) -> BagClassifier:
    """Build a run's network and load its backbone's weights; the store's `value_range` is None for HU."""
    backbone: Backbone = parts.build(
        {**config.backbone, "weights": starting_weights(config)}, in_chans=config.image.channels
    )
    preprocessor = SlicePreprocessor.from_config(
        config.image, value_range, backbone.input_size, backbone.mean, backbone.std
    )
    backbone.set_input_size(preprocessor.size)
    projection = SliceProjection(backbone.dim * preprocessor.scales, config.head.width, config.head.dropout)
    aggregator = parts.build(config.aggregator, dim=projection.width)
    return BagClassifier(preprocessor, backbone, projection, aggregator, views=config.evaluation.views)


def standardise(classifier: BagClassifier, features: Features, split: pd.DataFrame) -> None:
    """Standardise by all training bags what does not change in training: embeddings of a backbone that is frozen.

    Without a projection, which learns, this includes what `mean_max` pools. Statistics of batches would be noisy.

    Args:
        classifier: not trained yet.
        features: from the cache, for the classifier's cut.
        split: bag_id, split.
    """
    if not classifier.split.whole:
        return
    bag_ids, projection = split.loc[split["split"] == "train", "bag_id"], classifier.projection
    projection.standardise.fix(features.rows(bag_id, 0, None).float() for bag_id in bag_ids)
    if projection.linear is None and isinstance(classifier.aggregator, MeanMax):
        device = projection.standardise.running_mean.device  # type: ignore[union-attr]
        with torch.no_grad():
            rows = (features.rows(bag_id, 0, None).float().to(device) for bag_id in bag_ids)
            classifier.aggregator.standardise(projection(bag) for bag in rows)


def starting_weights(config: TrainConfig) -> str:
    """`backbone.weights`, with `auto` replaced by what the freezing strategy requires.

    Raises UsageError if the strategy requires other weights than those of the config.
    """
    weights = str(config.backbone.get("weights", "auto"))
    strategy: FreezingStrategy = parts.build(config.freezing)
    if strategy.weights is None or strategy.weights == weights:
        return weights
    name = type(strategy).__name__
    if weights != "auto":
        raise UsageError(
            f"backbone.weights={weights}: {name} requires backbone.weights={strategy.weights}; omit backbone.weights "
            "or choose another freezing strategy"
        )
    log.info("%s uses backbone.weights=%s", name, strategy.weights)
    return strategy.weights
