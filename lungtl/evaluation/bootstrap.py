"""Intervals by resampling patients: the bags or slices of one are alike, so they are drawn together.

Where every resample gives the same rate, 0 or 1, the exact binomial interval stands in.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PERCENTILES = (2.5, 97.5)
"""The ends of a 95 % interval."""

BATCH_VALUES = 2_000_000
"""Row weights held at a time; memory stays bounded whatever the number of slices."""


def patient_bootstrap(
    statistic: Callable[[Floats], Floats], patients: NDArray[np.int64], *, resamples: int, seed: int
) -> Floats:
    """Draw patients with replacement and compute the statistic on every replicate.

    Args:
        statistic: row weights [R, N] -> values [K, R].
        patients: int64 [N], the patient 0..P-1 of each row; P at least 2.
        resamples: replicates; the same seed draws the same patients whatever the rows are.
        seed: of the draws.

    Returns:
        float64 [K, resamples].
    """
    from scipy import stats

    n_patients = int(patients.max()) + 1

    def of_draws(drawn: NDArray[np.int64], axis: int = -1) -> Floats:
        replicate = np.arange(len(drawn))[:, None] * n_patients
        counts = np.bincount((drawn + replicate).ravel(), minlength=len(drawn) * n_patients)
        return statistic(counts.reshape(len(drawn), n_patients).astype(np.float64)[:, patients])

    with warnings.catch_warnings():
        # scipy warns of NaN replicates while it computes its own interval, which is not the one used here.
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            (np.arange(n_patients),),
            of_draws,
            n_resamples=resamples,
            batch=max(1, BATCH_VALUES // len(patients)),
            vectorized=True,
            method="percentile",
            random_state=np.random.default_rng(seed),
        )
    return np.asarray(result.bootstrap_distribution, dtype=np.float64)


def percentile_interval(distribution: Floats) -> tuple[Floats, Floats, Floats]:
    """Take the 95 % percentile interval of each row of replicates, leaving the undefined ones out.

    Args:
        distribution: float64 [K, R], NaN where a replicate is undefined.

    Returns:
        low [K], high [K], and the share of undefined replicates [K]. Low and high are NaN where that share is
        more than one half, since what is left no longer stands for the sampling.
    """
    undefined = np.isnan(distribution).mean(axis=1)
    low = np.full(len(distribution), np.nan)
    high = low.copy()
    kept = undefined <= 0.5
    if kept.any():
        low[kept], high[kept] = np.nanpercentile(distribution[kept], PERCENTILES, axis=1)
    return low, high, undefined


def exact_interval(n_patients: int, right: bool) -> tuple[float, float]:
    """Give the exact 95 % binomial interval of a rate of 1 or 0 (Clopper & Pearson 1934).

    Args:
        n_patients: the trials; bags of one patient are alike, so they are one.
        right: whether the rate is 1.
    """
    reach = 1 - 0.025 ** (1 / n_patients)
    return (1 - reach, 1.0) if right else (0.0, reach)
