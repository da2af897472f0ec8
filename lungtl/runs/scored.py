"""A trained model on its way to being scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from lungtl.data.bags import Features
    from lungtl.evaluation.chosen import Chosen
    from lungtl.evaluation.controls import Controls
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.training.untrained import Untrained


@dataclass(frozen=True)
class ScoredModel:
    """A trained model, and what it is scored by.

    Attributes:
        classifier: the model.
        aggregator: its aggregator's config (`_target_` and options).
        features: of the store that is scored, from the feature cache; None reads voxels.
        device: where to compute.
        chosen: calibration and thresholds, from the validation bags of its training; None where there are none.
        controls: the trivial predictors, fitted on its training bags; None where these are not known.
        untrained: the untrained control, its features of the same store; None leaves it out.
        slices_trained: whether anything trained its slice head, whose probabilities are left out otherwise.
        heatmaps: draw Grad-CAM heatmaps too.
    """

    classifier: BagClassifier
    aggregator: Mapping[str, Any]
    features: Features | None
    device: torch.device
    chosen: Chosen | None
    controls: Controls | None
    untrained: Untrained | None
    slices_trained: bool
    heatmaps: bool
