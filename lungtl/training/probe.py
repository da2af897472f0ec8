"""The probe: a logistic regression on the features of a frozen backbone, the control for whatever a head has learned.

A bag is the mean and the maximum of its slices' embeddings, each component standardised. It is the usual linear
evaluation of a representation (Alain and Bengio 2017), with as little freedom as possible between features and label.

With covariates as further inputs it is the second prediction of a run whose network is itself linear in these features.
Features of a frozen backbone have not seen a label, so all of it is fitted on the training bags. On 708 nodules
(`experiments=nodules`, 10 folds) the pooled AUROC is .961 so, and .958 if the network's log-odds and the covariates are
weighed on the validation bags.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from lungtl.data.bags import Features
from lungtl.evaluation.checks import check_labels, patient_codes
from lungtl.evaluation.covariates import input_values
from lungtl.models.aggregators.mean_max import MeanMax
from lungtl.models.bag_classifier import BagClassifier

log = logging.getLogger(__name__)
STRENGTHS = tuple(float(10**exponent) for exponent in np.arange(-4, -0.9, 0.5))
"""Values of scikit-learn's C (the smaller, the stronger the penalty) from which inner folds choose."""
FOLDS = 5
POSITIVE = 0.5  # label from which a bag counts as positive when folds are drawn
FEW = 1e-3  # C where a class has a single training patient, so that there are no inner folds
FREE = 20.0  # covariates, unlike features, are few: standardised to this deviation, they are hardly penalised
FOLDS_SEED = 0  # the same folds for all runs of a split: the control depends on features and split alone

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Probe:
    """A fitted probe: sigmoid(weights . x + intercept), with the standardisation of x in both."""

    weights: Floats  # float64 [2 D + covariates]
    intercept: float
    strength: float  # C, chosen on the training bags
    n: int  # training bags
    covariates: tuple[str, ...] = ()

    def predict(self, pooled: ArrayLike, bags: pd.DataFrame | None = None) -> Floats:
        """Probability of the positive class.

        Args:
            pooled: [n, 2 D], see `fit_probe`.
            bags: the same bags, with the columns of the covariates; not needed without any.

        Returns:
            float64 [n], NaN where a covariate is unknown.
        """
        x = np.asarray(pooled, np.float64)
        if self.covariates:
            assert bags is not None
            x = np.concatenate([x, input_values(bags, self.covariates)], axis=1)
        return np.asarray(expit(x @ self.weights + self.intercept), np.float64)

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.numpy import save_file

        tensors = {"weights": self.weights, "intercept": np.array([self.intercept])}
        facts = {"strength": repr(self.strength), "n": str(self.n), "covariates": json.dumps(self.covariates)}
        save_file(tensors, path, facts)

    @classmethod
    def load(cls, path: Path) -> Probe:
        """Read what `save` wrote; raises LookupError, TypeError, ValueError or SafetensorError on anything else."""
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            weights, (intercept,), facts = file.get_tensor("weights"), file.get_tensor("intercept"), file.metadata()
        covariates = tuple(json.loads(facts.get("covariates", "[]")))  # older files do not say
        return cls(weights, float(intercept), float(facts["strength"]), int(facts["n"]), covariates)


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


def is_linear(classifier: BagClassifier) -> bool:
    """Whether a network is a linear model of the probe's features: a frozen backbone and `MeanMax` without a layer."""
    linear = isinstance(classifier.aggregator, MeanMax) and classifier.projection.linear is None
    return linear and classifier.split.whole


def fit_probe(pooled: NDArray[np.float32], train: pd.DataFrame, covariates: Sequence[str] = ()) -> Probe:
    """Fit a probe.

    C has the lowest log-loss out of fold, in inner folds by patient; all training bags are then used.

    Args:
        pooled: [n, 2 D], of the features of a frozen backbone, see `lungtl.models.inference.pool_slices`.
        train: training bags: bag_id, patient_id, label (from 0 to 1; between them a share of the readers), and the
            columns of the covariates, all of them known.
        covariates: further inputs.
    """
    x = np.concatenate([pooled.astype(np.float64), input_values(train, covariates)], axis=1)
    y = train["label"].to_numpy(np.float64)
    check_labels(y >= POSITIVE, "training labels")
    strength = _choose_strength(x, y, list(train["patient_id"]), len(covariates))
    ((weights, intercept),) = _fit(x, y, (strength,), len(covariates))
    beside = f" and {', '.join(covariates)}" if covariates else ""
    log.info("probe: logistic regression on the slices' mean and maximum features%s, C=%.2g", beside, strength)
    return Probe(weights, intercept, strength, len(y), tuple(covariates))


def _choose_strength(x: Floats, y: Floats, patients: Sequence[str], n_free: int) -> float:
    groups, positive = patient_codes(patients, len(y)), y >= POSITIVE
    folds = min(FOLDS, *(len(np.unique(groups[positive == label])) for label in (False, True)))
    if folds < 2:
        return FEW
    losses = dict.fromkeys(STRENGTHS, 0.0)
    for inner, outer in StratifiedGroupKFold(folds, shuffle=True, random_state=FOLDS_SEED).split(x, positive, groups):
        if len(np.unique(positive[inner])) < 2:  # several bags of few patients
            continue
        for strength, (weights, intercept) in zip(STRENGTHS, _fit(x[inner], y[inner], STRENGTHS, n_free), strict=True):
            logits = x[outer] @ weights + intercept
            losses[strength] += float((np.logaddexp(0, logits) - y[outer] * logits).sum())
    return min(STRENGTHS, key=losses.__getitem__)  # of equal ones the strongest penalty


def _fit(x: Floats, y: Floats, strengths: Sequence[float], n_free: int) -> list[tuple[Floats, float]]:
    """Weights and intercept for x as it is, for each C of a rising sequence: each fit starts from the one before.

    The penalty is on standardised x, and hardly on its last `n_free` columns. A bag of label y counts as y positive and
    1 - y negative ones.
    """
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1
    scale[len(scale) - n_free :] /= FREE
    z, up, down = (x - centre) / scale, y > 0, y < 1
    rows, labels = np.concatenate([z[up], z[down]]), np.repeat([1, 0], [up.sum(), down.sum()])
    shares = np.concatenate([y[up], 1 - y[down]])
    model = LogisticRegression(max_iter=500, warm_start=True)
    fitted = []
    for strength in strengths:
        with warnings.catch_warnings():  # at the weakest penalties, whose loss is high long before it converges
            warnings.filterwarnings("ignore", category=ConvergenceWarning)
            model.set_params(C=strength).fit(rows, labels, sample_weight=shares)
        weights = np.ascontiguousarray(model.coef_[0] / scale)
        fitted.append((weights, float(model.intercept_[0] - weights @ centre)))
    return fitted
