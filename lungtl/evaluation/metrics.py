"""Scores of one set of predictions: every metric with its 95 % interval, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.errors import LungtlError
from lungtl.evaluation.bootstrap import patient_bootstrap, percentile_interval
from lungtl.evaluation.checks import check_labels, check_probabilities, patient_codes
from lungtl.evaluation.weighted import METRICS, Rows, weighted_metrics

__all__ = ["METRICS", "Estimate", "ScoreTable", "score", "weighted_metrics"]


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
    """

    n: int
    n_patients: int
    n_positive: int
    threshold: float
    metrics: Mapping[str, Estimate]

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
    (cluster bootstrap; Davison & Hinkley 1997, section 3.8).

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
    patients = patient_codes(patient_ids, len(y))
    if resamples < 0:
        raise LungtlError(f"resamples is {resamples}; wanted 0 (no intervals) or more, such as 1000")
    rows = Rows(y, p, threshold)
    values = rows.metrics(np.ones((1, len(y))))[:, 0]
    n_patients = int(patients.max()) + 1
    low = high = undefined = np.full(len(METRICS), np.nan)
    no_interval = None
    if resamples == 0:
        no_interval = "resamples is 0"
    elif n_patients == 1:
        no_interval = "only one patient"
    else:
        distribution = patient_bootstrap(rows.metrics, patients, resamples=resamples, seed=seed)
        low, high, undefined = percentile_interval(distribution)
    estimates = {}
    for k, name in enumerate(METRICS):
        if np.isnan(values[k]):
            estimates[name] = Estimate(None, undefined=_one_class(y))
        elif no_interval or np.isnan(low[k]):
            reason = no_interval or f"{undefined[k]:.0%} of the resamples are undefined"
            estimates[name] = Estimate(float(values[k]), undefined=f"no interval: {reason}")
        else:
            estimates[name] = Estimate(float(values[k]), float(low[k]), float(high[k]))
    return ScoreTable(len(y), n_patients, int(y.sum()), float(threshold), estimates)


def _one_class(labels: NDArray[np.int64]) -> str:
    return f"only one class: {int(labels.sum())} of {len(labels)} positive"
