from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lungtl.evaluation.estimate import DelongAuroc, Difference, Estimate, mean_and_sd


def test_hand_computed() -> None:
    assert mean_and_sd([1, 2, 3]) == (2, 1)  # deviations -1, 0, 1
    assert mean_and_sd([0.5] * 4) == (0.5, 0)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_the_standard_deviation_is_that_of_a_sample(values: list[float]) -> None:
    assert mean_and_sd(values) == pytest.approx((np.mean(values), np.std(values, ddof=1)), abs=1e-12)


def test_one_value_has_no_standard_deviation() -> None:
    assert mean_and_sd([0.8]) == (0.8, None)


@pytest.mark.parametrize(
    "arguments", [(None,), (0.5,), (0.5, 0.4, None, "half"), (0.5, 0.4, 0.6, "why"), (None, 0.4, 0.6, "why"), (np.nan,)]
)
@pytest.mark.parametrize("kind", [Estimate, DelongAuroc])
def test_missing_numbers_need_a_reason(kind: type[Estimate], arguments: tuple[float | None, ...]) -> None:
    with pytest.raises(ValidationError):
        kind(*arguments)  # type: ignore[arg-type]


def test_a_difference_is_an_estimate() -> None:
    assert Difference(0.1, -0.1, 0.3, undefined="no p-value").estimate == Estimate(0.1, -0.1, 0.3)
    assert Difference(0.0, p_value=1.0, undefined="alike").estimate == Estimate(0.0, undefined="alike")
