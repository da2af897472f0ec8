"""A trained model together with what its predictions are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lungtl.data.bags import Features
from lungtl.evaluation.chosen import Chosen
from lungtl.evaluation.controls import Controls
from lungtl.models.bag_classifier import BagClassifier
from lungtl.training.untrained import Untrained


@dataclass(frozen=True)
class ScoredModel:
    """A trained model and what its predictions are judged by.

    Attributes:
        classifier: the model.
        aggregator: its aggregator's config (`_target_` and options).
        features: of the store that is scored, from the feature cache; None reads voxels.
        device: where to compute.
        chosen: calibration and thresholds from the validation split of its training; None if there are none.
        controls: trivial predictors fitted on its training split; None if that is unknown.
        untrained: the untrained control with its features of the same store; None omits it.
        slices_trained: whether anything trained its slice head; if not, slice probabilities are omitted.
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
