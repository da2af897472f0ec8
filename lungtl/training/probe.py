"""The probe: a logistic regression on the features of a frozen backbone, the control for whatever a head has learned.

A bag is the mean and the maximum of its slices' embeddings, each component standardised. It is the usual linear
evaluation of a representation (Alain and Bengio 2017), with as little freedom as possible between features and label.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from lungtl.data.bags import Features
from lungtl.evaluation.checks import check_labels, patient_codes
from lungtl.models.bag_classifier import BagClassifier

log = logging.getLogger(__name__)
STRENGTHS = tuple(float(10**exponent) for exponent in np.arange(-4, -0.9, 0.5))
"""Values of scikit-learn's C (the smaller, the stronger the penalty) from which inner folds choose."""
FOLDS = 5
FEW = 1e-3  # C where a class has a single training patient, so that there are no inner folds
FOLDS_SEED = 0  # the same folds for all runs of a split: the control depends on features and split alone

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted probe: sigmoid(weights . x + intercept), with the standardisation of x in both."""

    weights: Floats  # float64 [2 D]
    intercept: float
    strength: float  # C, chosen on the training bags
    n: int  # training bags

    def predict(self, pooled: ArrayLike) -> Floats:
        """Probability of the positive class, float64 [n], from what `pool_slices` returns, [n, 2 D]."""
        return np.asarray(expit(np.asarray(pooled, np.float64) @ self.weights + self.intercept), np.float64)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.numpy import save_file

        tensors = {"weights": self.weights, "intercept": np.array([self.intercept])}
        save_file(tensors, path, {"strength": repr(self.strength), "n": str(self.n)})

    @classmethod
    def load(cls, path: Path) -> Probe:
        """Read what `save` wrote; raises LookupError, TypeError, ValueError or SafetensorError on anything else."""
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            weights, (intercept,), facts = file.get_tensor("weights"), file.get_tensor("intercept"), file.metadata()
        return cls(weights, float(intercept), float(facts["strength"]), int(facts["n"]))


def probed_features(classifier: BagClassifier, features: Features | None) -> Features | None:
    """The features that a probe of a trained network can use, or None, with the reason logged.

    They must be the embeddings of a network that has not seen the labels: those of a backbone that is frozen
    entirely. Behind a partly frozen one, a cached row is what enters its first layer that trains.
    """
    if not classifier.split.whole:
        log.info("no probe control: a part of the backbone trains, so the cache has no embeddings of a frozen network")
        return None
    if features is None:
        log.info("no probe control: it requires cached features of a backbone that is frozen entirely")
    return features


def pool_slices(features: Features, bag_ids: Iterable[str]) -> NDArray[np.float32]:
    """The mean and the maximum over the slices of each bag, in their first view: float32 [n, 2 D]."""
    rows = (features.rows(bag_id, 0, None).float() for bag_id in bag_ids)
    pooled = [np.concatenate([bag.mean(dim=0).numpy(), bag.amax(dim=0).numpy()]) for bag in rows]
    return np.stack(pooled)


def fit_probe(features: Features, train: pd.DataFrame) -> Probe:
    """Fit a probe on training bags of both classes: bag_id, patient_id, label (0 or 1).

    C has the lowest log-loss out of fold, in inner folds by patient; all bags of the training split are then used.
    """
    x = pool_slices(features, train["bag_id"]).astype(np.float64)
    y = check_labels(train["label"].to_numpy(), "training labels")
    strength = _choose_strength(x, y, list(train["patient_id"]))
    scaler, model = (step for _, step in _fit(x, y, strength).steps)
    weights = model.coef_[0] / scaler.scale_
    intercept = float(model.intercept_[0] - weights @ scaler.mean_)
    log.info("probe: logistic regression on the mean and maximum of the slices' features, C=%.2g", strength)
    return Probe(np.ascontiguousarray(weights), intercept, strength, len(y))


def _choose_strength(x: Floats, y: NDArray[np.int64], patients: Sequence[str]) -> float:
    groups = patient_codes(patients, len(y))
    folds = min(FOLDS, *(len(np.unique(groups[y == label])) for label in (0, 1)))
    if folds < 2:
        return FEW
    losses = dict.fromkeys(STRENGTHS, 0.0)
    for inner, outer in StratifiedGroupKFold(folds, shuffle=True, random_state=FOLDS_SEED).split(x, y, groups):
        if len(np.unique(y[inner])) < 2:  # several bags of few patients
            continue
        for strength in STRENGTHS:
            logits = _fit(x[inner], y[inner], strength).decision_function(x[outer])
            losses[strength] += float((np.logaddexp(0, logits) - y[outer] * logits).sum())
    return min(STRENGTHS, key=losses.__getitem__)  # of equal ones the strongest penalty


def _fit(x: Floats, y: NDArray[np.int64], strength: float) -> Pipeline:
    pipeline: Pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
    with warnings.catch_warnings():  # at the weakest penalties, whose loss is high long before it converges
        warnings.filterwarnings("ignore", category=ConvergenceWarning)
        pipeline.fit(x, y)
    return pipeline
