"""From a config to the network and its freezing strategy."""

from __future__ import annotations

import logging

from lungtl.data.windows import SlicePreprocessor
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.slice_projection import SliceProjection
from lungtl.settings import parts
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import TrainConfig

log = logging.getLogger(__name__)


def build_classifier(config: TrainConfig, value_range: tuple[int, int] | None) -> BagClassifier:
    """The network of a run, its backbone's weights loaded (see `starting_weights`).

    Args:
        config: of the run.
        value_range: of the store's voxels; None for HU.
    """
    backbone: TimmBackbone = parts.build(
        {**config.backbone, "weights": starting_weights(config)}, in_chans=config.image.channels
    )
    preprocessor = SlicePreprocessor.from_config(
        config.image, value_range, backbone.input_size, backbone.mean, backbone.std
    )
    backbone.set_input_size(preprocessor.size)
    projection = SliceProjection(backbone.dim, config.head.width, config.head.dropout)
    aggregator = parts.build(config.aggregator, dim=config.head.width)
    return BagClassifier(preprocessor, backbone, projection, aggregator)


def starting_weights(config: TrainConfig) -> str:
    """`backbone.weights`, or what the freezing strategy wants in the place of `auto`.

    Raises:
        UsageError: the strategy wants other weights than those that the user names.
    """
    given = str(config.backbone.get("weights", "auto"))
    strategy: FreezingStrategy = parts.build(config.freezing)
    if strategy.weights is None or strategy.weights == given:
        return given
    name = type(strategy).__name__
    if given != "auto":
        raise UsageError(
            f"backbone.weights={given}: {name} starts from backbone.weights={strategy.weights}; leave backbone.weights "
            "out, or choose another freezing strategy"
        )
    log.info("%s starts from backbone.weights=%s", name, strategy.weights)
    return strategy.weights


def trainable_share(classifier: BagClassifier, freezing: FreezingStrategy, max_epochs: int) -> tuple[int, int]:
    """(parameters that may train in so many epochs, all parameters), of a network that the strategy has adapted.

    What thaws only after the last epoch is warned of.
    """
    groups = freezing.groups(classifier.backbone)
    if late := [group for group in groups if group.epoch >= max_epochs]:
        log.warning(
            "%s: %d of %d groups thaw after the last epoch (trainer.max_epochs=%d)%s; dry_run=true lists them",
            type(freezing).__name__, len(late), len(groups), max_epochs,
            ", unless validation stops improving before" if late[0].at_latest else "",
        )  # fmt: skip
    backbone = {f"backbone.{name}" for name, _ in classifier.backbone.named_parameters()}
    trained = {
        f"backbone.{name}"
        for group in groups
        if group.epoch < max_epochs or group.at_latest
        for name in group.parameters
    }
    sizes = {name: parameter.numel() for name, parameter in classifier.named_parameters()}
    return sum(size for name, size in sizes.items() if name in trained or name not in backbone), sum(sizes.values())
