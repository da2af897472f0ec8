"""The decisions that a threshold, chosen on validation bags, gives on other bags."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.bootstrap import bootstrap_estimate, patient_bootstrap
from lungtl.evaluation.checks import check_resamples, check_rows, check_threshold
from lungtl.evaluation.document import OperatingPoint
from lungtl.evaluation.estimate import Estimate

Floats = NDArray[np.float64]

MISSING = {"sensitivity": "no case is positive", "specificity": "no case is negative",
           "ppv": "no case is called positive", "npv": "no case is called negative"}  # fmt: skip


def at_threshold(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patient_ids: Iterable[object],
    threshold: float,
    resamples: int = 1000,
    seed: int = 0,
) -> OperatingPoint:
    """Score the decisions at a threshold that was fixed beforehand; arguments and intervals as of `score`."""
    y, p, patients = check_rows(labels, probabilities, patient_ids)
    check_resamples(resamples)
    called = p >= check_threshold(threshold)
    counted = {"sensitivity": y == 1, "specificity": y == 0, "ppv": called, "npv": ~called}
    right = called == (y == 1)
    numerators = np.column_stack([rows & right for rows in counted.values()]).astype(np.float64)
    denominators = np.column_stack(list(counted.values())).astype(np.float64)

    def rates(weights: Floats) -> Floats:
        above, below = (weights @ numerators).T, (weights @ denominators).T
        rate = np.full(below.shape, np.nan)
        np.divide(above, below, out=rate, where=below > 0)
        return rate

    values = rates(np.ones((1, len(y))))[:, 0]
    replicates = np.full((len(counted), 1), np.nan)
    if resamples and patients.max() > 0:
        replicates = patient_bootstrap(rates, patients, resamples=resamples, seed=seed)

    def estimate(k: int, name: str, rows: NDArray[np.bool_]) -> Estimate:
        n_patients = len(np.unique(patients[rows]))
        if not n_patients:
            return Estimate(None, undefined=MISSING[name])
        if resamples == 0 or n_patients == 1:
            reason = "resamples is 0" if resamples == 0 else "only one patient"
            return Estimate(float(values[k]), undefined=f"no interval: {reason}")
        return bootstrap_estimate(float(values[k]), replicates[k], n_patients)

    estimates = {name: estimate(k, name, rows) for k, (name, rows) in enumerate(counted.items())}
    return OperatingPoint(float(threshold), **estimates)
