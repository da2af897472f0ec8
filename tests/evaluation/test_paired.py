from __future__ import annotations

from dataclasses import astuple
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, false_discovery_control

from lungtl.evaluation.paired import McNemar, holm, mcnemar
from lungtl.settings.errors import LungtlError


def calls(only_first: int, only_second: int, both: int = 0) -> tuple[list[int], list[int], list[int]]:
    """Positive bags that the first, the second or both models call positive."""
    n = only_first + only_second + both
    return [1] * n, [1] * only_first + [0] * only_second + [1] * both, [0] * only_first + [1] * (only_second + both)


def test_hand_computed() -> None:
    # Five tosses that all fall on one side, or all on the other: 2 / 2^5.
    assert mcnemar(*calls(5, 0, both=3)) == McNemar(5, 0, 2 / 32)
    # 12 against 4, as the exact test of statsmodels 0.15.0 has it.
    assert mcnemar(*calls(12, 4)).p_value == pytest.approx(0.076812744140625)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 5))
def test_independent_bags_give_the_binomial_test(only_first: int, only_second: int, both: int) -> None:
    found = mcnemar(*calls(only_first, only_second, both + 1))
    tosses = only_first + only_second
    expected = binomtest(only_first, tosses).pvalue if tosses else 1.0
    assert astuple(found) == pytest.approx((only_first, only_second, expected), abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 5)), min_size=1, max_size=25))
def test_mcnemar_swaps_whole_patients(rows: list[tuple[bool, bool, bool, int]]) -> None:
    labels, first, second, patients = (np.array(column) for column in zip(*rows, strict=True))
    right = [(model == labels).astype(int) for model in (first, second)]
    lead = np.bincount(patients, right[0] - right[1], 6)
    every = [abs(np.dot(signs, lead)) for signs in product((-1, 1), repeat=6)]
    expected = np.mean(np.array(every) >= abs(lead.sum()))
    found = mcnemar(labels, first, second, patients)
    assert found.p_value == pytest.approx(expected, abs=1e-12)
    assert found.only_first_right == (right[0] > right[1]).sum()
    swapped = mcnemar(labels, second, first, patients)
    counts = (found.only_second_right, found.only_first_right)
    assert astuple(swapped) == pytest.approx((*counts, found.p_value), abs=1e-12)


def test_bags_of_one_patient_are_one_piece_of_evidence() -> None:
    labels, first, second = calls(10, 0)
    assert mcnemar(labels, first, second).p_value == pytest.approx(2 / 2**10)
    assert mcnemar(labels, first, second, [bag // 2 for bag in range(10)]).p_value == pytest.approx(2 / 2**5)


@pytest.mark.parametrize(
    ("labels", "first", "second", "message"),
    [
        ([0, 1], [0, 1], [0], "1 second calls for 2 labels"),
        ([0, 1], [0.2, 1], [0, 1], "first calls contain 0.2"),
        ([], [], [], "empty"),
    ],
)
def test_invalid_calls_are_refused(labels: list[int], first: list[float], second: list[float], message: str) -> None:
    with pytest.raises(LungtlError, match=message):
        mcnemar(labels, first, second)


def test_holm_hand_computed() -> None:
    # sorted: 6 x .005, 5 x .01, 4 x .03, 3 x .04 (not below the one before), 2 x .5, 1 x .5
    assert holm([0.01, 0.04, 0.03, 0.005, 0.5, 0.5]) == pytest.approx([0.05, 0.12, 0.12, 0.03, 1.0, 1.0])


def test_an_undefined_comparison_is_not_counted() -> None:
    assert holm([None, 0.04, 0.01]) == [None, pytest.approx(0.04), pytest.approx(0.02)]
    assert holm([]) == []


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.floats(0.001, 0.3))
def test_holm_rejects_what_its_steps_reject(p_values: list[float], level: float) -> None:
    rejected = set()
    for step, place in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[place] * (len(p_values) - step) > level:
            break
        rejected.add(int(place))
    adjusted = holm(p_values)
    assert {place for place, p in enumerate(adjusted) if p is not None and p <= level} == rejected
    # Never below the raw value nor the false discovery rate's, never above Bonferroni's.
    for p, raw, rate in zip(adjusted, p_values, false_discovery_control(p_values), strict=True):
        assert p is not None
        assert max(raw, rate) - 1e-12 <= p <= min(1.0, raw * len(p_values))
