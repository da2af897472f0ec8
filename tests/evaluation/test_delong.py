from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtr
from scipy.stats import brunnermunzel, norm
from sklearn.metrics import roc_auc_score

from lungtl.evaluation.delong import auroc_interval, compare_aurocs, compare_mean_aurocs
from lungtl.evaluation.estimate import DelongAuroc, Difference
from lungtl.settings.errors import LungtlError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Few distinct values, so that ties within and across classes are the rule.
tied = st.integers(0, 6).map(lambda sixths: sixths / 6)

LABELS = np.repeat([0, 1], 10)
FIRST = np.array([1, 2, 2, 3, 3, 4, 5, 5, 6, 8, 3, 4, 5, 6, 6, 7, 8, 8, 9, 9]) / 10
SECOND = np.array([2, 1, 4, 3, 5, 2, 6, 7, 7, 5, 2, 6, 4, 7, 5, 8, 9, 6, 7, 8]) / 10


@st.composite
def bags(draw: st.DrawFn) -> tuple[Ints, Floats, Floats, Ints]:
    """Labels, two models' probabilities, and patients of several bags; each class has two patients."""
    n = draw(st.integers(4, 25))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    patients = np.array(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)))
    labels[:4], patients[:4] = [0, 0, 1, 1], [0, 1, 0, 1]
    first, second = (np.array(draw(st.lists(tied, min_size=n, max_size=n))) for _ in range(2))
    return labels, first, second, patients


def covariance(labels: Ints, models: list[Floats], patients: Ints) -> Floats:
    """Obuchowski's [K, K], written from the formulas of the paper with one loop a symbol."""

    def wins(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    x_rows, y_rows = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    m, n = len(x_rows), len(y_rows)
    everyone = np.unique(patients)
    i10, i01, i = len(np.unique(patients[x_rows])), len(np.unique(patients[y_rows])), len(everyone)
    v10, v01 = np.zeros((len(models), i)), np.zeros((len(models), i))
    for k, p in enumerate(models):
        theta = np.mean([wins(p[x], p[y]) for x in x_rows for y in y_rows])
        for place, patient in enumerate(everyone):
            own_x, own_y = ([row for row in rows if patients[row] == patient] for rows in (x_rows, y_rows))
            v10[k, place] = sum(np.mean([wins(p[x], p[y]) for y in y_rows]) - theta for x in own_x)
            v01[k, place] = sum(np.mean([wins(p[x], p[y]) for x in x_rows]) - theta for y in own_y)
    s10 = i10 / ((i10 - 1) * m) * v10 @ v10.T
    s01 = i01 / ((i01 - 1) * n) * v01 @ v01.T
    s11 = i / (i - 1) * v10 @ v01.T
    return np.asarray(s10 / m + s01 / n + (s11 + s11.T) / (m * n))


def test_hand_computed() -> None:
    # Of the positives, 0.9 is above both negatives and 0.4 above one; of the negatives, 0.5 is below one positive and
    # 0.1 below both. Both classes' placements are 1 and 1/2, their variances 1/8: (1/8)/2 + (1/8)/2.
    found = auroc_interval([1, 1, 0, 0], [0.9, 0.4, 0.5, 0.1], "abcd")
    assert found.value == 0.75
    assert found.standard_error == pytest.approx(np.sqrt(1 / 8))
    half = norm.ppf(0.975) * np.sqrt(1 / 8) / (0.75 * 0.25)
    assert (found.low, found.high) == pytest.approx((expit(logit(0.75) - half), expit(logit(0.75) + half)))


def test_delong_matches_mlstatkit() -> None:
    # MLstatkit 0.1.91, Delong_test(labels, first, second): AUROCs, its plain interval of the second, the variance of
    # the difference, p.
    first, second = (auroc_interval(LABELS, p, range(20)) for p in (FIRST, SECOND))
    assert (first.value, second.value) == pytest.approx((0.815, 0.755))
    assert second.standard_error == pytest.approx((0.9706454665895893 - 0.755) / norm.ppf(0.975), abs=1e-6)
    found = compare_aurocs(LABELS, FIRST, SECOND, range(20))
    half = norm.ppf(0.975) * np.sqrt(0.007366666666666667)
    assert astuple(found) == pytest.approx((0.06, 0.06 - half, 0.06 + half, 0.4845132390750808, None))


@settings(max_examples=100, deadline=None)
@given(bags())
def test_one_bag_per_patient_gives_the_brunner_munzel_variance(data: tuple[Ints, Floats, Floats, Ints]) -> None:
    labels, p, _, _ = data
    found = auroc_interval(labels, p, range(len(labels)))
    assert found.value == pytest.approx(roc_auc_score(labels, p))
    assume(found.standard_error is not None)
    assert found.value is not None
    assert found.standard_error is not None
    # Their statistic is (AUROC - 1/2) / standard error, with the same placements.
    statistic = brunnermunzel(p[labels == 0], p[labels == 1]).statistic
    assert (found.value - 0.5) / found.standard_error == pytest.approx(statistic, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(bags())
def test_variances_match_the_papers_formulas(data: tuple[Ints, Floats, Floats, Ints]) -> None:
    labels, first, second, patients = data
    expected = covariance(labels, [first, second], patients)
    one = auroc_interval(labels, first, patients)
    assert (one.standard_error or 0) ** 2 == pytest.approx(expected[0, 0], abs=1e-12)
    both = compare_aurocs(labels, first, second, patients)
    variance = expected[0, 0] + expected[1, 1] - 2 * expected[0, 1]
    if both.p_value is not None and both.low is not None:
        assert both.difference == pytest.approx(roc_auc_score(labels, first) - roc_auc_score(labels, second))
        assert both.p_value == pytest.approx(2 * norm.sf(abs(both.difference or 0) / np.sqrt(variance)), abs=1e-9)
    else:
        assert variance == pytest.approx(0, abs=1e-12)


def test_terms_that_cancel_leave_no_variance() -> None:
    # Found by the test above: what rounding left of the variance of the difference once gave a p-value of 0.
    labels = np.array([0, 0, 1, 1, 0, 0, 1, 1, 0, 1, 1, 0])
    first = np.array([3, 3, 5, 4, 1, 1, 1, 4, 5, 1, 3, 3]) / 6
    second = np.array([3, 4, 3, 2, 1, 0, 0, 4, 3, 2, 5, 3]) / 6
    patients = np.array([0, 1, 0, 1, 0, 0, 1, 1, 0, 1, 1, 0])
    expected = covariance(labels, [first, second], patients)
    assert expected[0, 0] + expected[1, 1] - 2 * expected[0, 1] == pytest.approx(0, abs=1e-15)
    found = compare_aurocs(labels, first, second, patients)
    assert (found.low, found.high, found.p_value) == (None, None, None)
    assert found.undefined == "no interval and no p-value: the estimated variance is 0"


@settings(max_examples=60, deadline=None)
@given(bags())
def test_auroc_is_invariant_to_order_ids_monotone_maps_and_mirroring(data: tuple[Ints, Floats, Floats, Ints]) -> None:
    labels, first, second, patients = data
    one, both = auroc_interval(labels, first, patients), compare_aurocs(labels, first, second, patients)
    if one.low is not None and one.value is not None and one.high is not None:
        assert 0 < one.low < one.value < one.high < 1
    order = np.random.default_rng(0).permutation(len(labels))
    renamed = [f"patient {9 - patient}" for patient in patients[order]]
    assert astuple(auroc_interval(labels[order], first[order], renamed)) == pytest.approx(astuple(one), abs=1e-12)
    # A monotone map keeps every rank; mirroring both the classes and the probabilities keeps every pair.
    assert astuple(auroc_interval(labels, first**3, patients)) == pytest.approx(astuple(one), abs=1e-12)
    assert astuple(auroc_interval(1 - labels, 1 - first, patients)) == pytest.approx(astuple(one), abs=1e-12)
    swapped = compare_aurocs(labels, second, first, patients)
    assert (swapped.difference, swapped.p_value) == pytest.approx((-(both.difference or 0), both.p_value))
    if both.low is not None and both.high is not None:
        assert (swapped.low, swapped.high) == pytest.approx((-both.high, -both.low))


def test_copies_of_a_patients_bags_do_not_change_the_interval() -> None:
    once = auroc_interval(LABELS, FIRST, range(20))
    tripled = auroc_interval(np.repeat(LABELS, 3), np.repeat(FIRST, 3), np.repeat(range(20), 3))
    assert astuple(tripled) == pytest.approx(astuple(once), abs=1e-12)
    compared = [
        compare_aurocs(*(np.repeat(values, k) for values in (LABELS, FIRST, SECOND, range(20)))).p_value for k in (1, 3)
    ]
    assert compared[0] == pytest.approx(compared[1])


def test_logit_interval_covers_a_high_auroc_better_than_the_plain_one() -> None:
    rng = np.random.default_rng(5)
    labels = np.r_[np.ones(20, dtype=int), np.zeros(40, dtype=int)]
    logit_covers, plain_covers = [], []
    for _ in range(600):
        found = auroc_interval(labels, ndtr(rng.normal(size=60) + np.sqrt(2) * norm.ppf(0.9) * labels), range(60))
        assert None not in (found.value, found.low, found.high, found.standard_error)
        value, low, high, error = found.value or 0, found.low or 0, found.high or 0, found.standard_error or 0
        logit_covers.append(low <= 0.9 <= high)
        plain_covers.append(abs(value - 0.9) <= 1.96 * error)
    # 600 draws have a standard error of 0.9 %.
    assert 0.925 < np.mean(logit_covers) < 0.98
    assert np.mean(plain_covers) < 0.92


def test_false_positive_rate_is_5_percent_with_several_bags_per_patient() -> None:
    rng = np.random.default_rng(6)
    patients = np.repeat(range(40), 5)
    clustered, naive = [], []
    for _ in range(500):
        labels = (rng.random(200) < np.repeat(expit(rng.normal(size=40)), 5)).astype(int)
        first, second = (
            ndtr((labels + np.repeat(rng.normal(size=40), 5) + rng.normal(size=200)) / 2) for _ in range(2)
        )
        clustered.append(compare_aurocs(labels, first, second, patients).p_value or 0)
        naive.append(compare_aurocs(labels, first, second, range(200)).p_value or 0)
    assert 0.02 < np.mean(np.array(clustered) < 0.05) < 0.085
    assert np.mean(np.array(naive) < 0.05) > 0.085


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_auroc_of_zero_or_one_has_no_interval(value: float) -> None:
    p = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    found = auroc_interval([0, 0, 0, 1, 1, 1], p if value else 1 - p, range(6))
    assert found == DelongAuroc(
        value, undefined=f"no interval: the variance of an AUROC of {value:g} is estimated as 0"
    )


def test_ties_alone_have_no_variance() -> None:
    labels = np.arange(5000) % 3 == 0
    found = auroc_interval(labels, np.full(5000, 0.3), range(5000))
    assert (found.value, found.low) == (0.5, None)
    # One pair out of order is a variance, if a small one.
    p = labels.astype(float)
    p[0] = 0.0
    assert auroc_interval(labels, p, range(5000)).low is not None


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_auroc(label: int) -> None:
    message = f"only one class: {4 * label} of 4 positive"
    assert auroc_interval([label] * 4, FIRST[:4], range(4)) == DelongAuroc(None, undefined=message)
    assert compare_aurocs([label] * 4, FIRST[:4], SECOND[:4], range(4)) == Difference(None, undefined=message)


def test_a_class_of_one_patient_has_no_interval() -> None:
    rows = ([1, 1, 0, 0], [0.9, 0.4, 0.5, 0.1])
    assert auroc_interval(*rows, "aabc") == DelongAuroc(0.75, undefined="no interval: only one patient with a positive")
    assert auroc_interval(*rows, "abcc") == DelongAuroc(0.75, undefined="no interval: only one patient with a negative")
    compared = compare_aurocs(*rows, [0.4, 0.9, 0.1, 0.95], "aabc")
    assert compared == Difference(0.25, undefined="no interval and no p-value: only one patient with a positive")


def test_models_with_the_same_ranking_do_not_differ() -> None:
    found = compare_aurocs(LABELS, FIRST, FIRST**2, range(20))
    assert found == Difference(0.0, p_value=1.0, undefined="no interval: both models rank all cases alike")


def test_a_perfect_and_a_perfectly_wrong_model_leave_no_variance() -> None:
    found = compare_aurocs([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [0.9, 0.8, 0.2, 0.1], range(4))
    assert found == Difference(1.0, undefined="no interval and no p-value: the estimated variance is 0")


@pytest.mark.parametrize(
    ("labels", "first", "second", "patients", "message"),
    [
        ([0, 1], [0.1, 0.9], [0.1], "ab", "shape"),
        ([0, 1], [0.1, 0.9], [0.1, float("nan")], "ab", "NaN"),
        ([0, 2], [0.1, 0.9], [0.1, 0.9], "ab", "labels contain 2"),
        ([0, 1], [0.1, 0.9], [0.1, 0.9], "abc", "3 patient ids"),
    ],
)
def test_input_that_cannot_be_compared_is_refused(
    labels: list[int], first: list[float], second: list[float], patients: str, message: str
) -> None:
    with pytest.raises(LungtlError, match=message):
        compare_aurocs(labels, first, second, patients)


def test_models_of_each_side_are_averaged() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 2
    patients = np.arange(40) // 4
    a, b, c = (np.clip(labels * 0.2 + generator.random(40) * 0.7, 0, 1) for _ in range(3))
    alone = compare_aurocs(labels, a, b, patients)
    assert compare_mean_aurocs(labels, [a, a], [b], patients) == alone  # no seed is added by a copy
    pair = compare_mean_aurocs(labels, [a, c], [b, b], patients)
    others = [compare_aurocs(labels, model, b, patients).difference for model in (a, c)]
    assert pair.difference == pytest.approx(np.mean([d for d in others if d is not None]))
    # the variance of a mean of two differences is a quarter of that of their sum, by the form's own polarisation
    widths = [half_width(compare_aurocs(labels, first, second, patients)) for first, second in ((a, b), (c, b), (a, c))]
    variance = (2 * widths[0] ** 2 + 2 * widths[1] ** 2 - widths[2] ** 2) / 4
    assert half_width(pair) == pytest.approx(np.sqrt(variance))


def half_width(found: Difference) -> float:
    assert found.low is not None
    assert found.high is not None
    return (found.high - found.low) / 2


def test_three_copies_equal_one() -> None:
    labels, model = np.arange(30) % 2, np.random.default_rng(0).random(30)
    found = compare_mean_aurocs(labels, [model] * 3, [model], np.arange(30))
    assert (found.difference, found.p_value) == (0, 1)
