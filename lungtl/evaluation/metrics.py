"""Scores of one set of predictions: every metric with its 95 % interval, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.bootstrap import exact_interval, patient_bootstrap, percentile_interval
from lungtl.evaluation.checks import check_labels, check_probabilities, patient_codes
from lungtl.evaluation.delong import Interval, auroc_interval
from lungtl.evaluation.weighted import METRICS, Rows
from lungtl.settings.errors import LungtlError

NO_PAIR = "no two patients have a probability in the same bin"
BIASED = "biased; see calibration_error"

__all__ = ["METRICS", "Estimate", "ScoreTable", "estimate", "score", "trials"]


@dataclass(frozen=True)
class Estimate:
    """One metric.

    Attributes:
        value: on the rows as they are; None when undefined.
        low: lower end of the 95 % interval; None when there is no interval.
        high: upper end.
        undefined: why the value, or only the interval, is missing; None when nothing is.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    undefined: str | None = None


@dataclass(frozen=True)
class ScoreTable:
    """All metrics of one set of predictions.

    Attributes:
        n: rows (bags or slices).
        n_patients: what the intervals resample.
        n_positive: rows with label 1.
        threshold: from which probability on a row is called positive.
        metrics: name in `METRICS` -> estimate.
        auroc_delong: the AUROC once more, with the analytic interval of DeLong and Obuchowski.
    """

    n: int
    n_patients: int
    n_positive: int
    threshold: float
    metrics: Mapping[str, Estimate]
    auroc_delong: Interval | None = None

    def to_dict(self) -> dict[str, object]:
        """Give plain JSON values; what is undefined is null, never NaN."""
        return asdict(self) | {"metrics": {name: asdict(one) for name, one in self.metrics.items()}}


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

    Resampling rows instead would call the bags of one patient independent, which makes intervals too narrow
    (cluster bootstrap; Davison & Hinkley 1997, section 3.8). An accuracy, sensitivity or specificity of exactly 0 or 1
    would get no width that way; its interval is the exact binomial one with the patients who have such rows as trials.
    Another metric that is 0 or 1 in every resample gets no interval.

    Args:
        labels: int [N], 0 or 1.
        probabilities: float [N] in [0, 1], of the positive class.
        patient_ids: one id a row.
        threshold: a row is called positive from this probability on.
        resamples: bootstrap replicates; 0 leaves the intervals out.
        seed: of the draws.

    Returns:
        The table. Sets of one class or of one patient are no error: what they leave undefined says so.

    Raises:
        LungtlError: on empty input, unequal lengths, labels other than 0 and 1, probabilities that are NaN or
            outside [0, 1], a missing patient id, a threshold outside [0, 1], a negative `resamples`.
    """
    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    identities = list(patient_ids)
    patients = patient_codes(identities, len(y))
    if resamples < 0:
        raise LungtlError(f"resamples is {resamples}; wanted 0 (no intervals) or more, such as 1000")
    rows = Rows(y, p, threshold, patients)
    named = list(zip(METRICS, rows.metrics(np.ones((1, len(y))))[:, 0], strict=True))
    n_patients = int(patients.max()) + 1
    if resamples == 0 or n_patients == 1:
        reason = "resamples is 0" if resamples == 0 else "only one patient"
        estimates = {name: Estimate(float(value), undefined=f"no interval: {reason}") for name, value in named}
    else:
        replicates = patient_bootstrap(rows.metrics, patients, resamples=resamples, seed=seed)
        of_rates = trials(y, patients)
        estimates = {
            name: Estimate(float(value), undefined=f"no interval: {BIASED}")
            if name == "ece"
            else estimate(float(value), own, of_rates.get(name))
            for (name, value), own in zip(named, replicates, strict=True)
        }
    for name, value in named:
        if np.isnan(value):
            estimates[name] = Estimate(None, undefined=NO_PAIR if name == "calibration_error" else _one_class(y))
    delong = auroc_interval(y, p, identities)
    return ScoreTable(len(y), n_patients, int(y.sum()), float(threshold), estimates, delong)


def trials(labels: NDArray[np.int64], patients: NDArray[np.int64]) -> dict[str, int]:
    """Count the patients whose rows a rate is of, the trials of its exact interval: rate in `METRICS` -> patients."""
    asked = {"accuracy": labels >= 0, "sensitivity": labels == 1, "specificity": labels == 0}
    return {name: len(np.unique(patients[rows])) for name, rows in asked.items()}


def estimate(value: float, replicates: NDArray[np.float64], of_trials: int | None = None) -> Estimate:
    """Give a metric its 95 % interval.

    Args:
        value: of the metric, defined.
        replicates: float64 [R], the metric on resampled patients; NaN where undefined.
        of_trials: of `trials`, for a rate; its interval is the exact binomial one where the rate is 0 or 1.

    Returns:
        The estimate; no interval where more than half of the resamples leave the metric undefined, or where it is 0
        or 1 in all of them.
    """
    if of_trials is not None and value in (0, 1):
        if of_trials == 1:
            return Estimate(value, undefined="no interval: only one patient")
        return Estimate(value, *exact_interval(of_trials, value == 1))
    low, high, undefined = (float(part[0]) for part in percentile_interval(replicates[np.newaxis]))
    if np.isnan(low):
        return Estimate(value, undefined=f"no interval: {undefined:.0%} of the resamples are undefined")
    if value in (0, 1) and np.nanmin(replicates) == np.nanmax(replicates) == value:
        return Estimate(value, undefined=f"no interval: every resample gives {value:g}")
    return Estimate(value, low, high)


def _one_class(labels: NDArray[np.int64]) -> str:
    return f"only one class: {int(labels.sum())} of {len(labels)} positive"
