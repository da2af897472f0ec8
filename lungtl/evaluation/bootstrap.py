"""Intervals by resampling patients: scans or slices of one patient are alike, so they are drawn together."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from lungtl.evaluation.estimate import Estimate
from lungtl.settings.errors import LungtlError

Floats = NDArray[np.float64]

PERCENTILES = (2.5, 97.5)
"""The ends of a 95 % interval."""

BATCH_VALUES = 2_000_000
"""Row weights held at a time, so that memory stays bounded for any number of slices."""


def patient_bootstrap(
    statistic: Callable[[Floats], Floats], patients: NDArray[np.int64], *, resamples: int, seed: int
) -> Floats:
    """Draw patients with replacement and compute the statistic on every replicate: float64 [K, resamples].

    Args:
        statistic: row weights [R, N] -> values [K, R].
        patients: int64 [N], the patient 0..P-1 of each row; P at least 2.
        resamples: number of replicates.
        seed: the same seed draws the same patients, whatever the rows are.
    """
    n_patients = int(patients.max()) + 1

    def weighted_statistic(drawn: NDArray[np.int64], axis: int = -1) -> Floats:
        replicate = np.arange(len(drawn))[:, None] * n_patients
        counts = np.bincount((drawn + replicate).ravel(), minlength=len(drawn) * n_patients)
        return statistic(counts.reshape(len(drawn), n_patients).astype(np.float64)[:, patients])

    with warnings.catch_warnings():
        # scipy warns of NaN replicates while it computes its own interval, which is not used here.
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            (np.arange(n_patients),),
            weighted_statistic,
            n_resamples=resamples,
            batch=max(1, BATCH_VALUES // len(patients)),
            vectorized=True,
            method="percentile",
            random_state=np.random.default_rng(seed),
        )
    return np.asarray(result.bootstrap_distribution, dtype=np.float64)


def why_no_interval(resamples: int, n_patients: int) -> str:
    """The reason why patients cannot be resampled; empty where they can."""
    if resamples < 0:
        raise LungtlError(f"resamples is {resamples}; expected 0 (no intervals) or more, such as 1000")
    if resamples == 0:
        return "no interval: resamples is 0"
    return "no interval: only one patient" if n_patients == 1 else ""


def percentile_interval(distribution: Floats) -> tuple[Floats, Floats, Floats]:
    """95 % percentile interval of each row of replicates, float64 [K, R], without the undefined ones (NaN).

    Returns:
        low [K], high [K], and the share of undefined replicates [K]. Low and high are NaN where more than half of
        the replicates are undefined: the rest no longer represents the sampling distribution.
    """
    undefined = np.isnan(distribution).mean(axis=1)
    low = np.full(len(distribution), np.nan)
    high = low.copy()
    usable = undefined <= 0.5
    if usable.any():
        low[usable], high[usable] = np.nanpercentile(distribution[usable], PERCENTILES, axis=1)
    return low, high, undefined


def bootstrap_estimate(value: float, replicates: Floats, trials: int | None = None) -> Estimate:
    """Give a metric its 95 % interval.

    Args:
        value: of the metric, defined.
        replicates: float64 [R], the metric on resampled patients; NaN where undefined.
        trials: of a rate, the patients whose rows it counts. A rate of 0 or 1 gets the exact binomial interval
            (Clopper & Pearson 1934), since no resample differs from it; rows of one patient are alike and count once.

    Returns:
        The estimate, without an interval where more than half of the resamples are undefined, or where a metric that
        is not a rate is 0 or 1 in all of them.
    """
    if trials is not None and value in (0, 1):
        if trials == 1:
            return Estimate(value, undefined="no interval: only one patient")
        reach = 1 - 0.025 ** (1 / trials)
        return Estimate(value, *((1 - reach, 1.0) if value == 1 else (0.0, reach)))
    low, high, undefined = (float(part[0]) for part in percentile_interval(replicates[np.newaxis]))
    if np.isnan(low):
        return Estimate(value, undefined=f"no interval: {undefined:.0%} of the resamples are undefined")
    if value in (0, 1) and np.nanmin(replicates) == np.nanmax(replicates) == value:
        return Estimate(value, undefined=f"no interval: every resample gives {value:g}")
    return Estimate(value, low, high)
