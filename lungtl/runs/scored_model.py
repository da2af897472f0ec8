"""A trained model together with what its predictions are judged by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from lungtl.bundle import load_covariates, load_probe, load_untrained
from lungtl.data.bags import Features
from lungtl.data.field_of_view import check_slices
from lungtl.data.store.reader import Store
from lungtl.evaluation.chosen import Chosen
from lungtl.evaluation.controls import Controls, fit_controls
from lungtl.evaluation.covariates import Regression
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.inference import Predictions, mean_predictions, pool_bags, predict_bags
from lungtl.runs.log import repeats_omitted
from lungtl.runs.model import Model
from lungtl.settings.schema import EvaluateConfig
from lungtl.training.feature_cache import cached_features
from lungtl.training.probe import Probe, probed_features
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
        covariates: the regression on covariates and its log-odds, or its features; None if it has none.
        slices_trained: whether anything trained its slice head; if not, slice probabilities are omitted.
        heatmaps: draw Grad-CAM heatmaps too.
        members: of an ensemble; classifier, aggregator and features are then the first member's.
    """

    classifier: BagClassifier
    aggregator: Mapping[str, Any]
    features: Features | None
    device: torch.device
    chosen: Chosen | None
    controls: Controls | None
    untrained: Untrained | None
    probe: Probe | None
    covariates: Regression | Probe | None
    slices_trained: bool
    heatmaps: bool
    members: tuple[ScoredModel, ...] = ()

    @property
    def networks(self) -> tuple[ScoredModel, ...]:
        """The members, or a single model itself."""
        return self.members or (self,)


@dataclass(frozen=True)
class ScoredPredictions:
    """What a model and the controls of its run predict for bags; of an ensemble, the means over its members.

    Attributes:
        predictions: of the bags and their slices.
        controls: untrained and probe, as far as all members have them: name -> float64 [n].
        with_covariates: float64 [n], NaN where a covariate is unknown; None for a model without covariates.
    """

    predictions: Predictions
    controls: dict[str, NDArray[np.float64]]
    with_covariates: NDArray[np.float64] | None


def predict_scored(scored: ScoredModel, store: Store, bags: pd.DataFrame) -> ScoredPredictions:
    """Predict bags of a store: bag_id, diameter_mm."""
    members = [_predict_network(network, store, bags) for network in scored.networks]
    combined = [each.with_covariates for each in members if each.with_covariates is not None]
    names = [name for name in members[0].controls if all(name in each.controls for each in members)]
    return ScoredPredictions(
        mean_predictions([each.predictions for each in members]),
        {name: np.mean([each.controls[name] for each in members], axis=0) for name in names},
        np.mean(combined, axis=0) if len(combined) == len(members) else None,
    )


def _predict_network(scored: ScoredModel, store: Store, bags: pd.DataFrame) -> ScoredPredictions:
    bag_ids, controls, combined = list(bags["bag_id"]), {}, None
    predictions = predict_bags(scored.classifier, store, bag_ids, scored.features, scored.device)
    if (control := scored.untrained) is not None:
        predicted = predict_bags(control.classifier, store, bag_ids, control.features, scored.device)
        controls["untrained"] = predicted.bags["probability"].to_numpy()
    probe, regression = scored.probe, scored.covariates
    if probe is not None and probed_features(scored.classifier, scored.features) is None:
        probe = None
    if probe is not None or isinstance(regression, Probe):
        pooled = pool_bags(scored.classifier, store, bag_ids, scored.features, scored.device)
    if probe is not None:
        controls["probe"] = probe.predict(pooled)
    if regression is not None:
        table = bags.merge(predictions.bags, on="bag_id", validate="one_to_one")
        table = with_covariates(table, store, regression.covariates)
        combined = regression.predict(pooled, table) if isinstance(regression, Probe) else regression.predict(table)
    return ScoredPredictions(predictions, controls, combined)


def with_covariates(bags: pd.DataFrame, store: Store, covariates: Sequence[str]) -> pd.DataFrame:
    """Bags with the columns of their covariates, as far as the store has them."""
    columns = [name for name in covariates if name in store.bags and name not in bags]
    return bags.merge(store.bags[["bag_id", *columns]], on="bag_id", validate="one_to_one")


def scored_on(store: Store, model: Model, trained_with: pd.DataFrame | None, config: EvaluateConfig) -> ScoredModel:
    """Prepare a trained model to be scored on a store.

    Args:
        store: that is scored.
        model: of a run or bundle.
        trained_with: the split that it was trained with; None if unknown, and then its bundle's controls are used.
        config: of the evaluation.

    Raises:
        LungtlError: the model's image.crop_mm does not suit the store.
    """
    if model.members:
        with repeats_omitted(cached_features.__module__):
            members = tuple(scored_on(store, member, trained_with, config) for member in model.members)
        controls = controls_of(model.config, trained_with)
        return replace(members[0], chosen=model.chosen, controls=controls, heatmaps=False, members=members,
                       slices_trained=model.config["slices_trained"])  # fmt: skip
    check_slices(model.classifier.preprocessor.crop_mm, store.bags, store.name)
    untrained = None
    if config.untrained and (found := load_untrained(model.folder, model.config, config.trust or ())) is not None:
        classifier, weights = found
        untrained = Untrained(classifier, bundle_features(store, model, classifier, weights, config), weights)
    weights = model.classifier.backbone.fingerprint()
    features = bundle_features(store, model, model.classifier, weights, config)
    controls, probe = controls_of(model.config, trained_with), load_probe(model.folder)
    covariates, slices_trained = load_covariates(model.folder, model.config), model.config["slices_trained"]
    return ScoredModel(model.classifier, model.config["aggregator"], features, model.device, model.chosen, controls,
                       untrained, probe, covariates, slices_trained, config.heatmaps)  # fmt: skip


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
        classifier, store, config.data_dir, model.device, weights, classifier.views, precision, config.cache.max_gb
    )
