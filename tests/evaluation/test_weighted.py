from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from lungtl.evaluation.bootstrap import patient_bootstrap, percentile_interval
from lungtl.evaluation.checks import patient_codes
from lungtl.evaluation.metrics import score
from lungtl.evaluation.weighted import METRICS, Rows, calibration_bin
from tests.evaluation.cohort import cohort

Table = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]

# Few distinct values, so that ties (across classes, at the threshold and at bin edges) are the rule.
tied = st.integers(0, 8).map(lambda eighths: eighths / 8)
loose = st.floats(0, 1)


@st.composite
def rows(draw: st.DrawFn) -> Table:
    n = draw(st.integers(2, 25))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    probabilities = np.array(draw(st.lists(draw(st.sampled_from([tied, loose])), min_size=n, max_size=n)))
    weights = np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), dtype=np.float64)
    labels[:2], weights[:2] = [0, 1], np.maximum(weights[:2], 1)
    return labels, probabilities, weights


def weighted_metrics(
    labels: ArrayLike,
    probabilities: ArrayLike,
    weights: ArrayLike,
    threshold: float = 0.5,
    patients: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[np.float64]]:
    rows = Rows(np.asarray(labels), np.asarray(probabilities, dtype=np.float64), threshold, patients)
    return dict(zip(METRICS, rows.metrics(np.asarray(weights, dtype=np.float64)), strict=True))


def one(labels: object, probabilities: object, weights: object, threshold: float = 0.5) -> dict[str, float]:
    values = weighted_metrics(labels, probabilities, np.array([weights]), threshold)  # type: ignore[arg-type]
    return {name: float(value[0]) for name, value in values.items()}


@settings(max_examples=100, deadline=None)
@given(rows(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_metrics_match_scikit_learn(data: Table, threshold: float) -> None:
    labels, probabilities, weights = data
    called = (probabilities >= threshold).astype(int)
    expected = {
        "auroc": oracle.roc_auc_score(labels, probabilities, sample_weight=weights),
        "auprc": oracle.average_precision_score(labels, probabilities, sample_weight=weights),
        "accuracy": oracle.accuracy_score(labels, called, sample_weight=weights),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, called, sample_weight=weights),
        "sensitivity": oracle.recall_score(labels, called, sample_weight=weights),
        "specificity": oracle.recall_score(labels, called, sample_weight=weights, pos_label=0),
        "f1": oracle.f1_score(labels, called, sample_weight=weights),
        "brier": oracle.brier_score_loss(labels, probabilities, sample_weight=weights),
    }
    found = one(labels, probabilities, weights, threshold)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(rows())
def test_a_weight_equals_repeating_the_row(data: Table) -> None:
    labels, probabilities, weights = data
    times = weights.astype(int)
    repeated = np.repeat(labels, times), np.repeat(probabilities, times)
    found, expected = one(labels, probabilities, weights), one(*repeated, np.ones(times.sum()))
    del found["calibration_error"], expected["calibration_error"]  # for which a row drawn twice is no evidence twice
    assert found == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 99)), min_size=1, max_size=40))
def test_ece_matches_scikit_learns_calibration_curve(pairs: list[tuple[int, int]]) -> None:
    labels = np.array([label for label, _ in pairs])
    # Never on a bin edge, where scikit-learn counts to the left.
    probabilities = np.array([(percent + 0.5) / 100 for _, percent in pairs])
    observed, predicted = calibration_curve(labels, probabilities, n_bins=10, strategy="uniform")
    counts = np.histogram(probabilities, bins=10, range=(0, 1))[0]
    expected = (counts[counts > 0] * abs(observed - predicted)).sum() / len(labels)
    assert one(labels, probabilities, np.ones(len(labels)))["ece"] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(rows(), st.lists(st.integers(0, 4), min_size=25, max_size=25))
def test_the_calibration_error_is_that_of_all_pairs_of_different_patients(data: Table, drawn: list[int]) -> None:
    labels, probabilities, weights = data
    patients = np.unique(drawn[: len(labels)], return_inverse=True)[1]
    weights = weights[np.unique(patients, return_index=True)[1]][patients]
    gaps, bins = probabilities - labels, calibration_bin(probabilities)
    squared, counts = 0.0, 0.0
    for k in range(10):
        own = np.flatnonzero(bins == k)
        pairs = [(i, j) for i, j in product(own, own) if patients[i] != patients[j] and weights[i] * weights[j] > 0]
        if pairs:
            weight = sum(weights[i] * weights[j] for i, j in pairs)
            square = sum(weights[i] * weights[j] * gaps[i] * gaps[j] for i, j in pairs) / weight
            squared, counts = squared + weights[own].sum() * square, counts + weights[own].sum()
    found = Rows(labels, probabilities, 0.5, patients).metrics(weights[None])[METRICS.index("calibration_error"), 0]
    # A root of what rounding leaves of 0 is 1e-8.
    assert found == pytest.approx(np.sqrt(max(squared / counts, 0)) if counts else np.nan, abs=1e-7, nan_ok=True)


@pytest.mark.parametrize("overconfidence", [1.0, 2.0])
def test_the_interval_of_the_calibration_error_covers_the_truth(overconfidence: float) -> None:
    rng = np.random.default_rng(0)

    def draw(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        log_odds = rng.normal(0, 1.5, n)
        return expit(log_odds), expit(overconfidence * log_odds)

    true, claimed = draw(200_000)
    gaps = [np.r_[0.0, (claimed - true)[calibration_bin(claimed) == k]] for k in range(10)]
    truth = np.sqrt(sum(len(gap) * gap.mean() ** 2 for gap in gaps) / 200_000)
    covered = []
    for _ in range(100):
        true, claimed = draw(100)
        bags = Rows((rng.random(100) < true).astype(np.int64), claimed, 0.5)
        errors = patient_bootstrap(bags.metrics, np.arange(100), resamples=200, seed=0)[
            [METRICS.index("calibration_error")]
        ]
        low, high, _ = percentile_interval(errors)
        covered.append(low[0] <= truth <= high[0])
    # The interval of the usual form, with absolute gaps, covers 0 and 46 of 100.
    assert np.mean(covered) >= 0.93


def test_hand_computed() -> None:
    # Descending: 0.9 positive; 0.6 one of each; 0.2 negative. Pairs won: 1 + 1 + 0.5 + 1 of 4. Precision 1 at
    # recall 1/2, then 2/3 at recall 1. Called positive at 0.5: tp 2, fp 1, tn 1.
    # Bins: |0.9 - 1| x 1, |1.2 - 1| (two rows of 0.6), |0.2 - 0| x 1, over 4 rows.
    # The only bin with two rows has gaps of 0.6 and -0.4, whose product is below 0.
    found = one([1, 1, 0, 0], [0.9, 0.6, 0.6, 0.2], [1, 1, 1, 1])
    assert found == pytest.approx(
        {
            "auroc": 3.5 / 4,
            "auprc": 0.5 * 1 + 0.5 * 2 / 3,
            "accuracy": 3 / 4,
            "balanced_accuracy": 0.75,
            "sensitivity": 1.0,
            "specificity": 0.5,
            "f1": 4 / 5,
            "brier": (0.01 + 0.16 + 0.36 + 0.04) / 4,
            "ece": (0.1 + 0.2 + 0.2) / 4,
            "calibration_error": 0.0,
        }
    )


def test_the_calibration_error_hand_computed() -> None:
    # Bin 0.6 to 0.7: gaps 0.62 and 0.68; bin 0.1 to 0.2: gaps 0.1 and -0.9; the last bin has one row.
    found = one([0, 0, 0, 1, 1], [0.62, 0.68, 0.1, 0.1, 1.0], np.ones(5))["calibration_error"]
    assert found == pytest.approx(np.sqrt((2 * 0.62 * 0.68 - 2 * 0.1 * 0.9) / 4))


def test_bins_include_their_left_edge_and_the_last_also_its_right() -> None:
    # 0.3 and 0.7 are the ones that linspace or multiplication put on the wrong side.
    probabilities = np.array([0.0, 0.1, 0.2, 0.3, 0.6, 0.7, 0.9, 0.95, 1.0, np.nextafter(0.3, 0)])
    np.testing.assert_array_equal(calibration_bin(probabilities), [0, 1, 2, 3, 6, 7, 9, 9, 9, 2])


@pytest.mark.parametrize(
    ("label", "undefined"),
    [
        (0, {"auroc", "auprc", "balanced_accuracy", "sensitivity", "f1"}),
        (1, {"auroc", "auprc", "balanced_accuracy", "specificity"}),
    ],
)
def test_one_class_leaves_metrics_of_both_classes_undefined(label: int, undefined: set[str]) -> None:
    found = one([label] * 3, [0.1, 0.6, 0.63], [1, 1, 1])
    assert {name for name, value in found.items() if np.isnan(value)} == undefined


def test_no_row_at_all_leaves_everything_undefined() -> None:
    assert all(np.isnan(value) for value in one([0, 1], [0.1, 0.9], [0, 0]).values())


def test_weightings_are_independent() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 30), rng.random(30).round(1)
    weights = rng.integers(0, 3, (25, 30))
    together = weighted_metrics(labels, probabilities, weights)
    assert list(together) == list(METRICS)
    for r in range(25):
        alone = one(labels, probabilities, weights[r])
        assert {name: float(values[r]) for name, values in together.items()} == pytest.approx(alone, nan_ok=True)


def test_pairs_within_a_patient_do_not_count_where_patients_are_given() -> None:
    data = cohort()
    patients = patient_codes(data.patient_ids, len(data.labels))
    once = np.ones((1, len(data.labels)))
    together = weighted_metrics(data.labels, data.probabilities, once, 0.4, patients)
    table = score(data.labels, data.probabilities, data.patient_ids, threshold=0.4, resamples=0)
    assert {name: found[0] for name, found in together.items()} == pytest.approx(
        {name: one.value for name, one in table.metrics.items()}
    )
    assert weighted_metrics(data.labels, data.probabilities, once)["calibration_error"] != together["calibration_error"]


def test_a_calibrated_model_of_100_rows_mostly_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.random((1000, 100))
    y = (rng.random(p.shape) < p).astype(int)
    found = [
        float(weighted_metrics(a, b, np.ones((1, 100)))["calibration_error"][0]) for a, b in zip(y, p, strict=True)
    ]
    assert 0.5 < np.mean(np.array(found) == 0) < 0.6
    assert np.mean(found) == pytest.approx(0.035, abs=0.004)
