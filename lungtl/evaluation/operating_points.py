"""Thresholds chosen on validation bags, and what they give on test bags."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.bootstrap import exact_interval, patient_bootstrap, percentile_interval
from lungtl.evaluation.checks import check_labels, check_probabilities, check_threshold, patient_codes
from lungtl.evaluation.metrics import Estimate
from lungtl.settings.errors import LungtlError

Floats = NDArray[np.float64]

NAMES = ("specificity_90", "specificity_95", "sensitivity_90", "sensitivity_95", "youden")
"""The operating points."""

MISSING_REASONS = {"sensitivity": "is positive", "specificity": "is negative",
                   "ppv": "is called positive", "npv": "is called negative"}  # fmt: skip


def choose_thresholds(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, float | None]:
    """Choose thresholds on VALIDATION bags; what they give must be measured on others (`at_threshold`).

    A bag is called positive when its probability is at least the threshold. A threshold lies halfway between two
    neighbouring probabilities of the bags: those with equal ones are never parted, and rounding, which differs between
    devices, flips none.

    Args:
        labels: int [N], 0 or 1.
        probabilities: float [N] in [0, 1], of the positive class.

    Returns:
        "specificity_90" and "specificity_95": the highest sensitivity with a specificity of at least that;
        "sensitivity_90" and "sensitivity_95": the highest specificity with a sensitivity of at least that; "youden":
        the highest sensitivity + specificity (Youden 1950), of equal ones that with the highest sensitivity. None
        where that is only reached by calling every bag alike, or there is one class.

    Raises:
        LungtlError: on input that `lungtl.evaluation.metrics.score` refuses.
    """
    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    if y.min() == y.max():
        return dict.fromkeys(NAMES)
    tried = np.unique(p)
    positives, negatives = np.sort(p[y == 1]), np.sort(p[y == 0])
    n_positive, n_negative = len(positives), len(negatives)
    # Counted in whole bags, so that nine of ten are 90 % and equal sums are equal.
    right_positive = n_positive - np.searchsorted(positives, tried)
    right_negative = np.searchsorted(negatives, tried)

    def best(reached: NDArray[np.bool_], gain: NDArray[np.int64], then: NDArray[np.int64]) -> float | None:
        """Give the threshold with the highest gain above 0, of equal ones that with the highest `then`."""
        place = np.lexsort((then, np.where(reached, gain, 0)))[-1]
        if not reached[place] or gain[place] == 0:
            return None
        # Not the lowest: there every bag is called positive, which gains nothing.
        lower, upper = float(tried[place - 1]), float(tried[place])
        middle = (lower + upper) / 2
        return middle if middle > lower else upper

    def specific(percent: int) -> float | None:
        return best(100 * right_negative >= percent * n_negative, right_positive, right_negative)

    def sensitive(percent: int) -> float | None:
        return best(100 * right_positive >= percent * n_positive, right_negative, right_positive)

    # (sensitivity + specificity - 1) times the number of pairs
    gain = right_positive * n_negative + right_negative * n_positive - n_positive * n_negative
    youden = best(np.ones(len(gain), dtype=bool), gain, right_positive)
    return dict(zip(NAMES, (specific(90), specific(95), sensitive(90), sensitive(95), youden), strict=True))


def at_threshold(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patient_ids: Iterable[object],
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score the decisions at a threshold that was fixed beforehand.

    Intervals are 95 % percentiles from resampling patients. A rate of exactly 0 or 1 would get no width that way; its
    interval is the exact binomial one (Clopper & Pearson 1934) with the patients who have such bags as trials.

    Args:
        labels: int [N], 0 or 1.
        probabilities: float [N] in [0, 1], of the positive class.
        patient_ids: one id a row.
        threshold: a bag is called positive from this probability on.
        resamples: bootstrap replicates; 0 leaves the intervals out.
        seed: of the draws.

    Returns:
        {"threshold": float, "sensitivity": ESTIMATE, "specificity": ESTIMATE, "ppv": ESTIMATE, "npv": ESTIMATE}, an
        ESTIMATE as in metrics.json: {"value", "low", "high", "undefined"}. ppv and npv hold for the prevalence of
        these bags.

    Raises:
        LungtlError: on input that `lungtl.evaluation.metrics.score` refuses.
    """
    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    patients = patient_codes(patient_ids, len(y))
    if resamples < 0:
        raise LungtlError(f"resamples is {resamples}; wanted 0 (no intervals) or more, such as 1000")
    called = p >= check_threshold(threshold)
    # of which bags, and how many of those are called right
    asked = {"sensitivity": y == 1, "specificity": y == 0, "ppv": called, "npv": ~called}
    right = called == (y == 1)
    above = np.column_stack([rows & right for rows in asked.values()]).astype(np.float64)
    below = np.column_stack(list(asked.values())).astype(np.float64)

    def rates(weights: Floats) -> Floats:
        found, of = (weights @ above).T, (weights @ below).T
        rate = np.full(of.shape, np.nan)
        np.divide(found, of, out=rate, where=of > 0)
        return rate

    values = rates(np.ones((1, len(y))))[:, 0]
    low = high = undefined = np.full(len(asked), np.nan)
    if resamples and patients.max() > 0:
        low, high, undefined = percentile_interval(patient_bootstrap(rates, patients, resamples=resamples, seed=seed))
    points: dict[str, Any] = {"threshold": float(threshold)}
    for k, (name, rows) in enumerate(asked.items()):
        n_patients = len(np.unique(patients[rows]))
        if not n_patients:
            estimate = Estimate(None, undefined=f"no bag {MISSING_REASONS[name]}")
        elif resamples == 0:
            estimate = Estimate(float(values[k]), undefined="no interval: resamples is 0")
        elif n_patients == 1:
            estimate = Estimate(float(values[k]), undefined="no interval: only one patient")
        elif values[k] in (0, 1):
            estimate = Estimate(float(values[k]), *exact_interval(n_patients, bool(values[k])))
        elif np.isnan(low[k]):
            reason = f"{undefined[k]:.0%} of the resamples are undefined"
            estimate = Estimate(float(values[k]), undefined=f"no interval: {reason}")
        else:
            estimate = Estimate(float(values[k]), float(low[k]), float(high[k]))
        points[name] = asdict(estimate)
    return points
