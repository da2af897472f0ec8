"""A trained model together with what its predictions are judged by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from lungtl.bundle import load_probe, load_untrained
from lungtl.data.bags import Features
from lungtl.data.store.reader import Store
from lungtl.evaluation.chosen import Chosen
from lungtl.evaluation.controls import Controls, fit_controls
from lungtl.models.bag_classifier import BagClassifier
from lungtl.runs.model import Model
from lungtl.settings.schema import EvaluateConfig
from lungtl.training.feature_cache import cached_features
from lungtl.training.probe import Probe
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
        probe: the probe of its features; None if it has none.
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
    probe: Probe | None
    slices_trained: bool
    heatmaps: bool


def scored_on(store: Store, model: Model, trained_with: pd.DataFrame | None, config: EvaluateConfig) -> ScoredModel:
    """Prepare a trained model to be scored on a store.

    Args:
        store: that is scored.
        model: of a run or bundle.
        trained_with: the split that it was trained with; None if unknown, and then its bundle's controls are used.
        config: of the evaluation.
    """
    untrained = None
    if config.untrained and (found := load_untrained(model.folder, model.config, config.trust or ())) is not None:
        classifier, weights = found
        untrained = Untrained(classifier, bundle_features(store, model, classifier, weights, config), weights)
    weights = model.classifier.backbone.fingerprint()
    features = bundle_features(store, model, model.classifier, weights, config)
    controls, probe = controls_of(model.config, trained_with), load_probe(model.folder)
    return ScoredModel(model.classifier, model.config["aggregator"], features, model.device, model.chosen, controls,
                       untrained, probe, model.config["slices_trained"], config.heatmaps)  # fmt: skip


def controls_of(bundle: Mapping[str, Any], trained_with: pd.DataFrame | None) -> Controls | None:
    """Controls fitted on the model's training split if it is known, otherwise its bundle's, if it has any."""
    if trained_with is not None:
        return fit_controls(trained_with[trained_with["split"] == "train"])
    saved = bundle.get("controls")
    return None if saved is None else Controls.from_dict(saved)


def bundle_features(
    store: Store, model: Model, classifier: BagClassifier, weights: str, config: EvaluateConfig
) -> Features | None:
    """The backbone's features of a store, in the precision that training used; None reads voxels."""
    if not config.cache.enabled:
        return None
    precision = model.provenance.get("cache_precision", "float32")  # the first bundles do not say
    return cached_features(
        classifier, store, config.data_dir, model.device, weights, precision=precision, max_gb=config.cache.max_gb
    )
