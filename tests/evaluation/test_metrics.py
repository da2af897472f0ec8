from __future__ import annotations

import json
import time
from dataclasses import asdict

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from lungtl.evaluation.document import ScoreTable
from lungtl.evaluation.estimate import Estimate
from lungtl.evaluation.metrics import score
from lungtl.evaluation.weighted import METRICS
from lungtl.settings.errors import LungtlError
from tests.evaluation.cohort import cohort


def intervals(table: ScoreTable) -> dict[str, tuple[float | None, float | None]]:
    return {name: (one.low, one.high) for name, one in table.metrics.items()}


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_the_table_counts_what_was_scored() -> None:
    data = cohort()
    table = score(data.labels, data.probabilities, data.patient_ids, threshold=0.4)
    assert (table.n, table.n_patients, table.n_positive, table.threshold) == (60, 50, data.labels.sum(), 0.4)
    assert tuple(table.metrics) == METRICS
    auroc = table.metrics["auroc"]
    assert auroc.value == pytest.approx(roc_auc_score(data.labels, data.probabilities))
    assert auroc.low is not None
    assert auroc.value is not None
    assert auroc.high is not None
    assert auroc.low < auroc.value < auroc.high


def test_interval_matches_a_bootstrap_written_as_a_loop() -> None:
    data = cohort(n=40, patients=20)
    rng = np.random.default_rng(11)
    ids = np.array(data.patient_ids)
    rows_of = [np.flatnonzero(ids == patient) for patient in np.unique(ids)]
    areas = []
    for _ in range(600):
        drawn = np.concatenate([rows_of[k] for k in rng.integers(0, 20, 20)])
        areas.append(roc_auc_score(data.labels[drawn], data.probabilities[drawn]))
    auroc = score(data.labels, data.probabilities, ids, resamples=600).metrics["auroc"]
    assert (auroc.low, auroc.high) == pytest.approx(tuple(np.percentile(areas, [2.5, 97.5])), abs=0.03)


def test_repeating_every_row_does_not_change_the_interval() -> None:
    data = cohort()
    once = score(data.labels, data.probabilities, data.patient_ids, resamples=200)
    tripled = score(
        np.repeat(data.labels, 3),
        np.repeat(data.probabilities, 3),
        np.repeat(data.patient_ids, 3),
        resamples=200,
    )
    assert tripled.n == 180
    for name, (low, high) in intervals(once).items():
        assert intervals(tripled)[name] == pytest.approx((low, high), abs=1e-12)


def test_resampling_rows_would_make_intervals_too_narrow() -> None:
    data = cohort(n=40, patients=40)
    alike = np.repeat(data.labels, 5), np.repeat(data.probabilities, 5)
    by_patient = score(*alike, np.repeat(data.patient_ids, 5)).metrics
    by_row = score(*alike, range(200)).metrics
    # Five copies of a row hold one row's information: by rows the interval narrows by about sqrt(5) = 2.2.
    for name in ("auroc", "accuracy", "brier"):
        assert 1.7 < width(by_patient[name]) / width(by_row[name]) < 2.8


def test_the_order_of_the_rows_does_not_matter() -> None:
    data = cohort()
    shuffled = np.random.default_rng(1).permutation(60)
    ids = np.array(data.patient_ids)
    a = score(data.labels, data.probabilities, ids, resamples=100)
    b = score(data.labels[shuffled], data.probabilities[shuffled], ids[shuffled], resamples=100)
    for name in METRICS:
        assert a.metrics[name].value == pytest.approx(b.metrics[name].value, abs=1e-12)
        assert intervals(a)[name] == pytest.approx(intervals(b)[name], abs=1e-12)


def test_the_seed_decides_the_interval_and_not_the_value() -> None:
    data = cohort()
    first, again, other = (
        score(data.labels, data.probabilities, data.patient_ids, resamples=100, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.metrics["auroc"].value == other.metrics["auroc"].value
    assert first.metrics["auroc"].low != other.metrics["auroc"].low


@pytest.mark.parametrize(
    ("label", "undefined"),
    [
        (0, {"auroc", "auprc", "balanced_accuracy", "sensitivity", "f1"}),
        (1, {"auroc", "auprc", "balanced_accuracy", "specificity"}),
    ],
)
def test_one_class_leaves_only_some_metrics_undefined(label: int, undefined: set[str]) -> None:
    table = score([label] * 12, np.linspace(0.1, 0.9, 12), range(12), resamples=50)
    for name, one in table.metrics.items():
        if name in undefined:
            assert one == Estimate(None, undefined=f"only one class: {12 * label} of 12 positive")
        else:
            assert one.value is not None
            assert (one.low is None) == (name == "ece")


@pytest.mark.parametrize(
    ("patients", "resamples", "reason"),
    [(["P1"] * 4, 100, "no interval: only one patient"), (list("abcd"), 0, "no interval: resamples is 0")],
)
def test_a_value_without_an_interval_gives_the_reason(patients: list[str], resamples: int, reason: str) -> None:
    table = score([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], patients, resamples=resamples)
    assert table.metrics["auroc"] == Estimate(1.0, undefined=reason)


def test_mostly_undefined_replicates_give_no_interval() -> None:
    # Two patients of one class each: half of all replicates draw one of them twice, so one class.
    rows = ([1, 1, 0, 0], [0.9, 0.8, 0.2, 0.1], ["a", "a", "b", "b"])
    tables = [score(*rows, resamples=9, seed=seed) for seed in range(10)]
    auroc = {table.metrics["auroc"] for table in tables}
    assert Estimate(1.0, undefined="no interval: every resample gives 1") in auroc
    assert Estimate(1.0, undefined="no interval: 67% of the resamples are undefined") in auroc
    assert all(is_exact(table.metrics["accuracy"], 2, 2) for table in tables)


def is_exact(found: Estimate, right: int, patients: int) -> bool:
    """Whether an estimate is the rate of so many patients with the exact binomial interval."""
    interval = binomtest(right, patients).proportion_ci(0.95, method="exact")
    return (found.value, found.low, found.high) == pytest.approx((right / patients, interval.low, interval.high))


def test_a_perfect_rate_gets_the_exact_interval_of_its_patients() -> None:
    # Seven bags of six patients: a, b and c have the positives, two of them a.
    rows = ([1, 1, 1, 1, 0, 0, 0], "aabcdef")
    right = score(rows[0], [0.9, 0.8, 0.7, 0.6, 0.3, 0.2, 0.1], rows[1], resamples=50).metrics
    assert is_exact(right["accuracy"], 6, 6)
    assert is_exact(right["sensitivity"], 3, 3)
    assert is_exact(right["specificity"], 3, 3)
    wrong = score(rows[0], [0.1] * 4 + [0.9] * 3, rows[1], resamples=50).metrics
    assert is_exact(wrong["accuracy"], 0, 6)
    assert is_exact(wrong["sensitivity"], 0, 3)


def test_metrics_constant_over_resamples_have_no_interval() -> None:
    # Five patients of each class, so that hardly any resample lacks one.
    labels, ids = [1] * 5 + [0] * 5, "abcdefghij"
    right = score(labels, [0.9] * 5 + [0.1] * 5, ids, resamples=50).metrics
    for name in ("auroc", "auprc", "balanced_accuracy", "f1"):
        assert right[name] == Estimate(1.0, undefined="no interval: every resample gives 1")
    wrong = score(labels, [0.1] * 5 + [0.9] * 5, ids, resamples=50).metrics
    for name in ("auroc", "balanced_accuracy", "f1"):
        assert wrong[name] == Estimate(0.0, undefined="no interval: every resample gives 0")
    constant = score(labels, [0.3] * 10, ids, resamples=50).metrics["auroc"]
    assert (constant.value, constant.low, constant.high) == (0.5, 0.5, 0.5)  # whatever the bags


def test_a_perfect_rate_of_one_patient_has_no_interval() -> None:
    sensitivity = score([1, 0, 0], [0.9, 0.1, 0.6], "abc", resamples=50).metrics["sensitivity"]
    assert sensitivity == Estimate(1.0, undefined="no interval: only one patient")


def test_the_table_is_json() -> None:
    table = score([0, 0, 0], [0.1, 0.2, 0.3], ["a", "b", "c"], resamples=20)
    document = json.loads(json.dumps(asdict(table), allow_nan=False))
    assert document["n_patients"] == 3
    assert document["metrics"]["auroc"] == {
        "value": None,
        "low": None,
        "high": None,
        "undefined": "only one class: 0 of 3 positive",
        "sd": None,
    }


@pytest.mark.parametrize(
    ("labels", "probabilities", "patients", "message"),
    [
        ([0, 1], [0.1, float("nan")], "ab", "NaN"),
        ([0, 2], [0.1, 0.2], "ab", "labels contain 2"),
        ([0, 1], [0.1, 1.5], "ab", "contain 1.5"),
        ([], [], "", "empty"),
        ([0, 1], [0.1, 0.2], "abc", "3 patient ids for 2 labels"),
        ([0, 1], [0.1, 0.2, 0.3], "ab", "shape"),
    ],
)
def test_input_that_cannot_be_scored_is_refused_in_one_line(
    labels: list[int], probabilities: list[float], patients: str, message: str
) -> None:
    with pytest.raises(LungtlError, match=message) as refusal:
        score(labels, probabilities, patients)
    assert "\n" not in str(refusal.value)


def test_a_negative_number_of_resamples_is_refused() -> None:
    with pytest.raises(LungtlError, match="resamples is -1"):
        score([0, 1], [0.1, 0.9], "ab", resamples=-1)


def test_a_slice_level_table_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(20_000) < 0.05).astype(int)
    started = time.process_time()
    score(labels, rng.random(20_000), rng.integers(0, 200, 20_000))
    # About 1.3 s of processor time; the limit is what a run can afford at its end.
    assert time.process_time() - started < 6
