"""From a config to the network and its freezing strategy."""

from __future__ import annotations

from lungtl import plugins
from lungtl.config import TrainConfig
from lungtl.data.windows import SlicePreprocessor
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.slice_projection import SliceProjection


def build_classifier(config: TrainConfig, value_range: tuple[int, int] | None) -> BagClassifier:
    """The network of a run, its backbone's weights loaded.

    Args:
        config: of the run.
        value_range: of the store's voxels; None for HU.
    """
    backbone: TimmBackbone = plugins.build(config.backbone)
    preprocessor = SlicePreprocessor.from_config(
        config.image, value_range, backbone.input_size, backbone.mean, backbone.std
    )
    backbone.set_input_size(preprocessor.size)
    projection = SliceProjection(backbone.dim, config.head.width, config.head.dropout)
    aggregator = plugins.build(config.aggregator, dim=config.head.width)
    return BagClassifier(preprocessor, backbone, projection, aggregator)


def trainable_share(classifier: BagClassifier, freezing: FreezingStrategy) -> tuple[int, int]:
    """(parameters that train at the first epoch, all parameters)."""
    freezing.apply(classifier.backbone, epoch=0)
    parameters = list(classifier.parameters())
    return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)
