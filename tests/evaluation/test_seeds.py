from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lungtl.evaluation.seeds import Spread, summarise
from lungtl.settings.errors import LungtlError


def test_hand_computed() -> None:
    # Deviations -1, 0, 1: sd 1; t(0.975) of two degrees of freedom is 4.302653 (every printed table).
    half = 4.302653 / np.sqrt(3)
    assert astuple(summarise([1, 2, 3])) == pytest.approx((3, 2, 1, 2 - half, 2 + half))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_the_interval_is_that_of_the_one_sample_t_test(values: list[float]) -> None:
    found = summarise(values)
    assert found.sd is not None
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    if found.sd > 1e-9:  # the test has no interval of values that are all alike
        expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_one_seed_says_nothing_of_the_spread() -> None:
    assert summarise([0.8]) == Spread(1, 0.8, None, None, None)


def test_seeds_that_agree_have_no_spread() -> None:
    assert summarise([0.5] * 4) == Spread(4, 0.5, 0.0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "said"), [([], "no values"), ([0.1, float("nan")], "hold nan"), ([float("inf")], "hold inf")]
)
def test_what_cannot_be_summarised_is_refused(values: list[float], said: str) -> None:
    with pytest.raises(LungtlError, match=said):
        summarise(values)
