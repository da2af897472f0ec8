from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lungtl.evaluation import bootstrap
from lungtl.evaluation.bootstrap import patient_bootstrap, percentile_interval

PATIENTS = np.array([0, 0, 0, 1, 2, 2])


def test_resamples_draw_whole_patients() -> None:
    drawn = patient_bootstrap(lambda weights: weights.T, PATIENTS, resamples=200, seed=0)
    assert drawn.shape == (6, 200)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])
    np.testing.assert_array_equal(drawn[4], drawn[5])
    np.testing.assert_array_equal(drawn[0] + drawn[3] + drawn[4], np.full(200, 3))
    # Each patient is drawn once on average; 200 x 3 draws have a standard error of 0.06.
    np.testing.assert_allclose(drawn.mean(axis=1), np.ones(6), atol=0.25)


def test_the_draws_depend_on_the_seed_and_not_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    def counts(seed: int) -> NDArray[np.float64]:
        return patient_bootstrap(lambda weights: weights.T, PATIENTS, resamples=50, seed=seed)

    whole = counts(0)
    monkeypatch.setattr(bootstrap, "BATCH_VALUES", 6 * 7)
    np.testing.assert_array_equal(counts(0), whole)
    assert (counts(1) != whole).any()


def test_the_interval_is_the_percentiles_of_the_defined_replicates() -> None:
    replicates = np.r_[np.arange(201.0), np.full(100, np.nan)]
    low, high, undefined = percentile_interval(np.stack([replicates, np.full(301, np.nan)]))
    assert (low[0], high[0], undefined[0]) == pytest.approx((5, 195, 100 / 301))
    assert np.isnan(low[1])
    assert np.isnan(high[1])
    assert undefined[1] == 1


def test_more_undefined_than_defined_replicates_give_no_interval() -> None:
    half = np.array([[1.0, 2.0, np.nan, np.nan]])
    more = np.array([[1.0, np.nan, np.nan, np.nan]])
    assert np.isfinite(percentile_interval(half)[0]).all()
    assert np.isnan(percentile_interval(more)[0]).all()
