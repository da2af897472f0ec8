"""Every metric of one set of predictions with its 95 % interval, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.bootstrap import bootstrap_estimate, patient_bootstrap
from lungtl.evaluation.checks import check_resamples, check_rows, one_class
from lungtl.evaluation.delong import auroc_interval
from lungtl.evaluation.document import ScoreTable
from lungtl.evaluation.estimate import Estimate
from lungtl.evaluation.weighted import METRICS, Rows

NO_PAIR = "no two patients have a probability in the same bin"
BIASED = "biased; see calibration_error"


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
    bootstrap; Davison & Hinkley 1997, section 3.8). See `bootstrap_estimate` for metrics that are exactly 0 or 1.

    Args:
        labels: int [N], 0 or 1.
        probabilities: float [N] in [0, 1], of the positive class.
        patient_ids: one id per row.
        threshold: rows with at least this probability are called positive.
        resamples: bootstrap replicates; 0 for no intervals.
        seed: of the draws.

    Returns:
        The table. A single class or a single patient is no error: whatever it leaves undefined says so.

    Raises:
        LungtlError: empty input, unequal lengths, labels other than 0 and 1, probabilities that are NaN or outside
            [0, 1], a missing patient id, a threshold outside [0, 1], a negative `resamples`.
    """
    ids = list(patient_ids)
    y, p, patients = check_rows(labels, probabilities, ids)
    check_resamples(resamples)
    rows = Rows(y, p, threshold, patients)
    values = dict(zip(METRICS, rows.metrics(np.ones((1, len(y))))[:, 0], strict=True))
    n_patients = int(patients.max()) + 1
    if resamples == 0 or n_patients == 1:
        reason = "resamples is 0" if resamples == 0 else "only one patient"
        estimates = {name: Estimate(float(value), undefined=f"no interval: {reason}") for name, value in values.items()
                     if not np.isnan(value)}  # fmt: skip
    else:
        replicates = patient_bootstrap(rows.metrics, patients, resamples=resamples, seed=seed)
        trials = rate_trials(y, patients)
        estimates = {
            name: Estimate(float(value), undefined=f"no interval: {BIASED}")
            if name == "ece"
            else bootstrap_estimate(float(value), own, trials.get(name))
            for (name, value), own in zip(values.items(), replicates, strict=True)
            if not np.isnan(value)
        }
    missing = {name: Estimate(None, undefined=NO_PAIR if name == "calibration_error" else one_class(y))
               for name in METRICS if name not in estimates}  # fmt: skip
    metrics = {name: (estimates | missing)[name] for name in METRICS}
    return ScoreTable(len(y), n_patients, int(y.sum()), float(threshold), metrics, auroc_interval(y, p, ids))


def rate_trials(labels: NDArray[np.int64], patients: NDArray[np.int64]) -> dict[str, int]:
    """Count the patients whose rows a rate counts, the trials of its exact interval: rate -> patients."""
    counted = {"accuracy": labels >= 0, "sensitivity": labels == 1, "specificity": labels == 0}
    return {name: len(np.unique(patients[rows])) for name, rows in counted.items()}
