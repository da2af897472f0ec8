from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import precision_score, recall_score

from lungtl.evaluation.chosen import NAMES, choose_thresholds
from lungtl.evaluation.estimate import Estimate
from lungtl.evaluation.metrics import at_threshold, score
from lungtl.settings.errors import LungtlError
from tests.evaluation.cohort import cohort

Rows = tuple[NDArray[np.int64], NDArray[np.float64]]


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    n = draw(st.integers(2, 60))
    labels = np.array([0, 1, *draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))])
    return labels, np.array(draw(st.lists(st.integers(0, 20), min_size=n, max_size=n))) / 20


def rates(labels: NDArray[np.int64], probabilities: NDArray[np.float64], threshold: float) -> tuple[float, float]:
    called = probabilities >= threshold
    return float(called[labels == 1].mean()), float((~called)[labels == 0].mean())


def test_hand_computed() -> None:
    # Ten negatives at 0.05, 0.15, ... 0.95; positives at 0.5, 0.7, 0.9 and 0.99.
    labels = [0] * 10 + [1] * 4
    p = [*np.arange(10) / 10 + 0.05, 0.5, 0.7, 0.9, 0.99]
    # One negative of ten may be called positive: from 0.9 on that is 0.95's. With none left only 0.99 is called.
    # All four positives are needed for 90 %: from 0.5 on five negatives are below. Youden: 0.5 gives 1 + 0.5, 0.7
    # gives 0.75 + 0.7, 0.9 gives 0.5 + 0.9, 0.99 gives 0.25 + 1. The next lower bags are at 0.85, 0.95 and 0.45.
    assert choose_thresholds(labels, p) == pytest.approx(
        {
            "specificity_90": 0.875,
            "specificity_95": 0.97,
            "sensitivity_90": 0.475,
            "sensitivity_95": 0.475,
            "youden": 0.475,
        }
    )


def test_rounding_flips_no_validation_bag() -> None:
    data = cohort()
    noise = np.random.default_rng(0).uniform(-1, 1, len(data.labels)) * 1e-6
    for threshold in choose_thresholds(data.labels, data.probabilities).values():
        assert threshold is not None
        np.testing.assert_array_equal(data.probabilities >= threshold, data.probabilities + noise >= threshold)


def test_a_threshold_separates_neighbouring_floats() -> None:
    below = 0.5
    above = np.nextafter(below, 1)
    assert choose_thresholds([0, 1], [below, above])["youden"] == above


def test_nine_of_ten_are_ninety_percent() -> None:
    # Called negative at 0.5: 18 of 20, at 0.9: 19. Called positive at 0.9: 18 of 20, at 0.5: 19.
    labels = [0] * 20 + [1] * 20
    p = [0.1] * 18 + [0.5, 0.9] + [0.05] + [0.5] + [0.9] * 18
    chosen = choose_thresholds(labels, p)
    assert (chosen["specificity_90"], chosen["specificity_95"]) == (0.3, 0.7)  # between 0.1, 0.5 and 0.9
    assert (chosen["sensitivity_90"], chosen["sensitivity_95"]) == (0.7, 0.3)


def test_ties_are_not_separated() -> None:
    # At 0.8 stand a positive and two negatives of ten: no threshold calls that positive alone.
    chosen = choose_thresholds([0] * 10 + [1] * 2, [0.1] * 8 + [0.8] * 2 + [0.8, 0.05])
    assert (chosen["specificity_90"], chosen["specificity_95"]) == (None, None)
    # All positives are reached only from 0.05 on, where every bag is called positive.
    assert (chosen["sensitivity_90"], chosen["sensitivity_95"]) == (None, None)
    assert chosen["youden"] == pytest.approx(0.45)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_operating_point(label: int) -> None:
    assert choose_thresholds([label] * 3, [0.1, 0.2, 0.3]) == dict.fromkeys(NAMES)


def test_constant_probabilities_have_no_operating_point() -> None:
    assert choose_thresholds([0, 1, 1], [0.4, 0.4, 0.4]) == dict.fromkeys(NAMES)


@settings(max_examples=200, deadline=None)
@given(rows())
def test_each_point_is_the_best_of_all_thresholds(data: Rows) -> None:
    labels, p = data
    chosen = choose_thresholds(labels, p)
    every = {threshold: rates(labels, p, threshold) for threshold in (*p, *filter(None, chosen.values()))}
    for percent in (90, 95):
        for k, name in ((0, f"specificity_{percent}"), (1, f"sensitivity_{percent}")):
            reaching = [(both[k], both[1 - k]) for both in every.values() if both[1 - k] >= percent / 100]
            threshold = chosen[name]
            if threshold is None:
                assert max(reaching, default=(0.0, 0.0))[0] == 0
            else:
                assert (every[threshold][k], every[threshold][1 - k]) == max(reaching)
    best = max(sum(both) for both in every.values())
    if chosen["youden"] is None:
        assert best <= 1 + 1e-12
    else:
        assert sum(every[chosen["youden"]]) == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(rows(), st.integers(0, 20))
def test_rates_match_scikit_learn(data: Rows, threshold: int) -> None:
    labels, p = data
    called = (p >= threshold / 20).astype(int)
    expected = {
        "sensitivity": recall_score(labels, called),
        "specificity": recall_score(labels, called, pos_label=0),
        "ppv": precision_score(labels, called) if called.any() else None,
        "npv": precision_score(labels, called, pos_label=0) if not called.all() else None,
    }
    found = at_threshold(labels, p, range(len(labels)), threshold / 20, resamples=0)
    assert {name: getattr(found, name).value for name in expected} == pytest.approx(expected)


def test_the_intervals_are_those_of_the_metrics_table() -> None:
    data = cohort()
    found = at_threshold(data.labels, data.probabilities, data.patient_ids, 0.4, resamples=200, seed=7)
    table = score(data.labels, data.probabilities, data.patient_ids, threshold=0.4, resamples=200, seed=7)
    for name in ("sensitivity", "specificity"):
        assert asdict(getattr(found, name)) == pytest.approx(asdict(table.metrics[name]), abs=1e-12)
    # Swapping the classes and the side of the threshold swaps the predictive values.
    mirrored = at_threshold(1 - data.labels, 1 - data.probabilities, data.patient_ids, 0.6, resamples=200, seed=7)
    assert asdict(mirrored.npv) == pytest.approx(asdict(found.ppv), abs=1e-12)
    assert found.ppv.low is not None
    assert found.ppv.value is not None
    assert found.ppv.high is not None
    assert found.ppv.low < found.ppv.value < found.ppv.high


def test_copies_of_bags_do_not_narrow_the_interval() -> None:
    data = cohort()
    once = at_threshold(data.labels, data.probabilities, data.patient_ids, 0.4, resamples=100)
    labels, probabilities, ids = (
        np.repeat(values, 3) for values in (data.labels, data.probabilities, np.array(data.patient_ids))
    )
    tripled = at_threshold(labels, probabilities, ids, 0.4, resamples=100)
    for name in ("sensitivity", "specificity", "ppv", "npv"):
        assert asdict(getattr(tripled, name)) == pytest.approx(asdict(getattr(once, name)), abs=1e-12)


def test_a_perfect_rate_gets_the_exact_interval_of_its_patients() -> None:
    # Four positives of three patients, all called; two of three negatives are not.
    found = at_threshold([1, 1, 1, 1, 0, 0, 0], [0.9] * 4 + [0.1, 0.2, 0.8], "aabcdef", 0.5, resamples=200)
    exact = binomtest(3, 3).proportion_ci(0.95, method="exact")
    one = found.sensitivity
    assert (one.value, one.low, one.high) == pytest.approx((1.0, exact.low, 1.0))
    none = at_threshold([1, 1, 1, 1, 0, 0, 0], [0.1] * 4 + [0.1, 0.2, 0.8], "aabcdef", 0.5, resamples=200)
    exact = binomtest(0, 3).proportion_ci(0.95, method="exact")
    assert (none.sensitivity.low, none.sensitivity.high) == pytest.approx((0, exact.high))


def test_missing_rates_give_the_reason() -> None:
    found = at_threshold([1, 1, 0], [0.9, 0.2, 0.3], "abc", 0.95, resamples=50)
    assert found.ppv == Estimate(None, undefined="no case is called positive")
    assert found.specificity.undefined == "no interval: only one patient"
    assert at_threshold([1, 1], [0.9, 0.2], "ab", 0.5).specificity.undefined == "no case is negative"
    npv = at_threshold([1, 0], [0.9, 0.2], "ab", 0.5, resamples=0).npv
    assert npv == Estimate(1.0, undefined="no interval: resamples is 0")


def test_mostly_undefined_replicates_give_no_interval() -> None:
    # Called positive: one right bag of a, one wrong bag of b. One replicate draws a or b only with some luck.
    ids = ["a", "b", *map(str, range(8))]
    found = [at_threshold([1, 0] + [0] * 8, [0.9, 0.9] + [0.1] * 8, ids, 0.5, resamples=3, seed=s) for s in range(60)]
    reasons = {point.ppv.undefined for point in found}
    assert "no interval: 67% of the resamples are undefined" in reasons
    assert None in reasons


@pytest.mark.parametrize(
    ("threshold", "resamples", "message"), [(1.5, 10, "threshold is 1.5"), (0.5, -1, "resamples is")]
)
def test_invalid_options_are_refused(threshold: float, resamples: int, message: str) -> None:
    with pytest.raises(LungtlError, match=message):
        at_threshold([0, 1], [0.1, 0.9], "ab", threshold, resamples=resamples)
