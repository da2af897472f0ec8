"""Build the network from a config."""

from __future__ import annotations

import logging

from lungtl.data.windows import SlicePreprocessor
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
    aggregator = parts.build(config.aggregator, dim=config.head.width)
    return BagClassifier(preprocessor, backbone, projection, aggregator, views=config.evaluation.views)


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
