"""Every metric of one set of predictions with its 95 % interval, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.bootstrap import bootstrap_estimate, patient_bootstrap, why_no_interval
from lungtl.evaluation.checks import check_rows, check_threshold, one_class
from lungtl.evaluation.delong import auroc_interval
from lungtl.evaluation.document import OperatingPoint, ScoreTable
from lungtl.evaluation.estimate import Estimate
from lungtl.evaluation.weighted import METRICS, Floats, Rows, ratio

NO_PAIR = "no two patients have a probability in the same bin"
BIASED = "biased; see calibration_error"
NO_CASE = {"sensitivity": "no case is positive", "specificity": "no case is negative",
           "ppv": "no case is called positive", "npv": "no case is called negative"}  # fmt: skip
"""Why a rate of an operating point is undefined."""


def score(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patient_ids: Iterable[object],
    *,
    threshold: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> ScoreTable:
    """Compute every metric with a 95 % percentile interval from resampling PATIENTS with replacement.

    Resampling rows would treat the scans of one patient as independent, which makes intervals too narrow (cluster
    bootstrap; Davison & Hinkley 1997, section 3.8). See `bootstrap_estimate` for metrics that are exactly 0 or 1. A
    single class or a single patient is no error: the estimate that it leaves undefined has a reason.
    """
    ids = list(patient_ids)
    y, p, patients = check_rows(labels, probabilities, ids)
    rows = Rows(y, p, threshold, patients)
    n_patients = int(patients.max()) + 1
    reason = why_no_interval(resamples, n_patients)
    replicates = None if reason else patient_bootstrap(rows.metrics, patients, resamples=resamples, seed=seed)
    trials = rate_trials(y, patients)
    metrics = {}
    for k, (name, value) in enumerate(zip(METRICS, rows.metrics(np.ones((1, len(y))))[:, 0].tolist(), strict=True)):
        if np.isnan(value):
            metrics[name] = Estimate(None, undefined=NO_PAIR if name == "calibration_error" else one_class(y))
        elif replicates is None:
            metrics[name] = Estimate(value, undefined=reason)
        elif name == "ece":
            metrics[name] = Estimate(value, undefined=f"no interval: {BIASED}")
        else:
            metrics[name] = bootstrap_estimate(value, replicates[k], trials.get(name))
    return ScoreTable(len(y), n_patients, int(y.sum()), float(threshold), metrics, auroc_interval(y, p, ids))


def at_threshold(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patient_ids: Iterable[object],
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
) -> OperatingPoint:
    """Score the decisions at a threshold that was fixed beforehand; intervals as of `score`."""
    y, p, patients = check_rows(labels, probabilities, patient_ids)
    called = p >= check_threshold(threshold)
    counted = {"sensitivity": y == 1, "specificity": y == 0, "ppv": called, "npv": ~called}
    denominators = np.column_stack(list(counted.values())).astype(np.float64)
    numerators = denominators * (called == (y == 1))[:, None]

    def rates(weights: Floats) -> Floats:
        return ratio((weights @ numerators).T, (weights @ denominators).T)

    values = rates(np.ones((1, len(y))))[:, 0].tolist()
    replicates = None
    if not why_no_interval(resamples, int(patients.max()) + 1):
        replicates = patient_bootstrap(rates, patients, resamples=resamples, seed=seed)
    estimates = {}
    for k, (name, rows) in enumerate(counted.items()):
        n_patients = len(np.unique(patients[rows]))
        reason = why_no_interval(resamples, n_patients)
        if not n_patients:
            estimates[name] = Estimate(None, undefined=NO_CASE[name])
        elif reason or replicates is None:
            estimates[name] = Estimate(values[k], undefined=reason)
        else:
            estimates[name] = bootstrap_estimate(values[k], replicates[k], n_patients)
    return OperatingPoint(float(threshold), **estimates)


def rate_trials(labels: NDArray[np.int64], patients: NDArray[np.int64]) -> dict[str, int]:
    """Count the patients whose rows a rate counts, the trials of its exact interval: rate -> patients."""
    counted = {"accuracy": labels >= 0, "sensitivity": labels == 1, "specificity": labels == 0}
    return {name: len(np.unique(patients[rows])) for name, rows in counted.items()}
