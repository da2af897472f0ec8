from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from lungtl.errors import LungtlError
from lungtl.evaluation import weighted
from lungtl.evaluation.weighted import METRICS, calibration_bin, weighted_metrics

Rows = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]

# Few distinct values, so that ties (across classes, at the threshold and at bin edges) are the rule.
tied = st.integers(0, 8).map(lambda eighths: eighths / 8)
loose = st.floats(0, 1)


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    n = draw(st.integers(2, 25))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    probabilities = np.array(draw(st.lists(draw(st.sampled_from([tied, loose])), min_size=n, max_size=n)))
    weights = np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), dtype=np.float64)
    labels[:2], weights[:2] = [0, 1], np.maximum(weights[:2], 1)
    return labels, probabilities, weights


def one(labels: object, probabilities: object, weights: object, threshold: float = 0.5) -> dict[str, float]:
    values = weighted_metrics(labels, probabilities, np.array([weights]), threshold)  # type: ignore[arg-type]
    return {name: float(value[0]) for name, value in values.items()}


@settings(max_examples=100, deadline=None)
@given(rows(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_all_metrics_are_those_of_scikit_learn(data: Rows, threshold: float) -> None:
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
def test_a_weight_is_a_row_repeated(data: Rows) -> None:
    labels, probabilities, weights = data
    times = weights.astype(int)
    repeated = np.repeat(labels, times), np.repeat(probabilities, times)
    assert one(labels, probabilities, weights) == pytest.approx(one(*repeated, np.ones(times.sum())), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 99)), min_size=1, max_size=40))
def test_ece_is_what_the_calibration_curve_of_scikit_learn_gives(pairs: list[tuple[int, int]]) -> None:
    labels = np.array([label for label, _ in pairs])
    # Never on a bin edge, where scikit-learn counts to the left.
    probabilities = np.array([(percent + 0.5) / 100 for _, percent in pairs])
    observed, predicted = calibration_curve(labels, probabilities, n_bins=10, strategy="uniform")
    counts = np.histogram(probabilities, bins=10, range=(0, 1))[0]
    expected = (counts[counts > 0] * abs(observed - predicted)).sum() / len(labels)
    assert one(labels, probabilities, np.ones(len(labels)))["ece"] == pytest.approx(expected, abs=1e-12)


def test_hand_computed() -> None:
    # Descending: 0.9 positive; 0.6 one of each; 0.2 negative. Pairs won: 1 + 1 + 0.5 + 1 of 4. Precision 1 at
    # recall 1/2, then 2/3 at recall 1. Called positive at 0.5: tp 2, fp 1, tn 1.
    # Bins: |0.9 - 1| x 1, |1.2 - 1| (two rows of 0.6), |0.2 - 0| x 1, over 4 rows.
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
        }
    )


def test_a_bin_holds_its_left_edge_and_the_last_one_also_its_right() -> None:
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
def test_one_class_leaves_undefined_what_needs_the_other(label: int, undefined: set[str]) -> None:
    found = one([label] * 3, [0.1, 0.6, 0.9], [1, 1, 1])
    assert {name for name, value in found.items() if np.isnan(value)} == undefined


def test_no_row_at_all_leaves_everything_undefined() -> None:
    assert all(np.isnan(value) for value in one([0, 1], [0.1, 0.9], [0, 0]).values())


def test_each_weighting_is_computed_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 2, 30), rng.random(30).round(1)
    weights = rng.integers(0, 3, (25, 30))
    monkeypatch.setattr(weighted, "CHUNK_VALUES", 30 * 4)
    together = weighted_metrics(labels, probabilities, weights)
    assert list(together) == list(METRICS)
    for r in range(25):
        alone = one(labels, probabilities, weights[r])
        assert {name: float(values[r]) for name, values in together.items()} == pytest.approx(alone, nan_ok=True)


@pytest.mark.parametrize(
    ("weights", "said"),
    [([1.0, 1.0], r"shape \(2,\)"), ([[1.0]], r"wanted \[R, 2\]"), ([[1.0, -1.0]], "hold -1")],
)
def test_weights_that_do_not_fit_are_refused(weights: list[float], said: str) -> None:
    with pytest.raises(LungtlError, match=said):
        weighted_metrics([0, 1], [0.1, 0.9], weights)
