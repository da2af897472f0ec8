from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from lungtl.evaluation.calibration import TEMPERATURES, Calibration, fit_isotonic, fit_platt, fit_temperature
from lungtl.evaluation.metrics import score
from lungtl.settings.errors import LungtlError

READER = TypeAdapter(Calibration)
Rows = tuple[NDArray[np.int64], NDArray[np.float64]]


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Both classes; probabilities that often tie, and whose log-odds over the coldest temperature float64 tells."""
    n = draw(st.integers(2, 40))
    labels = np.array([0, 1, *draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))])
    return labels, np.array(draw(st.lists(st.integers(17, 83), min_size=n, max_size=n))) / 100


def loss(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean log-loss; a probability of 0 or 1 that is right costs nothing."""
    of_truth = np.where(labels == 1, probabilities, 1 - probabilities)
    with np.errstate(divide="ignore"):
        return float(-np.log(of_truth).mean())


def test_a_model_whose_log_odds_are_twice_too_large_has_temperature_two() -> None:
    # At each probability p there are exactly as many positives as p promises; then the log-odds are doubled.
    true = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], 10)
    labels = np.concatenate([np.arange(10) < 10 * p for p in (0.1, 0.3, 0.5, 0.7, 0.9)]).astype(int)
    found = fit_temperature(labels, expit(2 * logit(true)))
    assert found.temperature == pytest.approx(2)
    np.testing.assert_allclose(found.apply(expit(2 * logit(true))), true)


def test_the_temperature_is_the_slope_of_a_logistic_regression_without_intercept() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    p = expit(rng.normal(1.5 * labels - 0.7, 1.5))
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logit(p)[:, None], labels)
    assert fit_temperature(labels, p).temperature == pytest.approx(1 / model.coef_[0, 0], rel=1e-4)


def smoothed(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Platt's targets as rows of whole labels: which bag, its label, its weight; each bag stands there twice."""
    n = np.bincount(labels, minlength=2)
    target = np.where(labels == 1, (n[1] + 1) / (n[1] + 2), 1 / (n[0] + 2))
    bags = np.arange(len(labels))
    return np.r_[bags, bags], np.repeat([1, 0], len(labels)), np.r_[target, 1 - target]


@pytest.mark.parametrize("scale", [0.05, 1.5, 3.0])
def test_platt_is_a_logistic_regression_on_smoothed_labels(scale: float) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(80) < 0.2).astype(int)
    z = scale * rng.normal(1.5 * labels + 2, 0.7)
    bags, whole, weights = smoothed(labels)
    model = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky")
    model.fit(z[bags, None] / scale, whole, sample_weight=weights)
    found = fit_platt(labels, expit(z))
    assert found.slope == pytest.approx(model.coef_[0, 0] / scale, rel=1e-4)
    assert found.intercept == pytest.approx(model.intercept_[0], rel=1e-4)


def test_platt_of_two_probabilities_hits_both_mean_targets() -> None:
    # Two parameters reach both points: the mean target of the bags there. 5 positives: 6/7; 10 others: 1/12.
    labels = [1] * 4 + [0] * 1 + [1] * 1 + [0] * 9
    p = [0.7] * 5 + [0.4] * 10
    expected = [(4 * 6 / 7 + 1 / 12) / 5, (6 / 7 + 9 / 12) / 10]
    np.testing.assert_allclose(fit_platt(labels, p).apply([0.7, 0.4]), expected, rtol=1e-7)


def test_platt_corrects_the_shift_of_balanced_training_but_temperature_does_not() -> None:
    """At a prevalence of 20 % a balanced loss makes a bag with probability p say 4p / (4p + 1 - p)."""
    rng = np.random.default_rng(0)
    true = expit(rng.normal(-1.94, 1.6, 40_000))
    labels = (rng.random(len(true)) < true).astype(int)
    assert labels.mean() == pytest.approx(0.2, abs=0.01)
    shifted = 4 * true / (4 * true + 1 - true)
    platt, temperature = fit_platt(labels, shifted), fit_temperature(labels, shifted)
    assert platt.slope == pytest.approx(1, abs=0.05)
    assert platt.intercept == pytest.approx(-np.log(4), abs=0.05)
    patients = np.arange(len(true))
    ece = {
        name: score(labels, p, patients, resamples=0).metrics["ece"].value
        for name, p in (("raw", shifted), ("platt", platt.apply(shifted)), ("temperature", temperature.apply(shifted)))
    }
    assert ece["raw"] == pytest.approx(0.2, abs=0.05)
    assert ece["temperature"] == pytest.approx(0.2, abs=0.05)
    assert ece["platt"] == pytest.approx(0, abs=0.01)


@settings(max_examples=100, deadline=None)
@given(rows())
def test_platt_maximises_the_likelihood_and_keeps_ranks(data: Rows) -> None:
    labels, p = data
    bags, whole, weights = smoothed(labels)

    def at(slope: float, intercept: float) -> float:
        scores = slope * logit(p[bags]) + intercept
        return float((weights * np.logaddexp(0, np.where(whole == 1, -scores, scores))).sum())

    found = fit_platt(labels, p)
    if found.slope is not None and found.intercept is not None:
        assert roc_auc_score(labels, found.apply(p)) == roc_auc_score(labels, p)
        best = at(found.slope, found.intercept)
        for step in (1e-3, 0.1):
            around = [at(found.slope + a, found.intercept + b) for a in (-step, 0, step) for b in (-step, 0, step)]
            assert best <= min(around) + 1e-9
    elif p.min() < p.max():
        constant = minimize_scalar(lambda intercept: at(0, intercept)).fun
        assert all(constant <= at(slope, b) + 1e-9 for slope in (0.01, 0.5) for b in np.linspace(-3, 3, 61))


def test_platt_stays_finite_for_separable_bags() -> None:
    found = fit_platt([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.9])
    # Symmetric, hence through one half; targets are 1/4 and 3/4.
    assert found.intercept == pytest.approx(0, abs=1e-7)
    assert found.slope is not None
    assert 0 < found.slope < 1
    assert found.apply([0.9])[0] < 0.85


@pytest.mark.parametrize(
    ("labels", "p", "message"),
    [
        ([1, 1, 0, 0], [0.1, 0.4, 0.6, 0.9], "no better than chance"),
        ([1, 0, 1, 0], [0.5, 0.5, 0.5, 0.5], "all 4 validation cases have the same probability"),
    ],
)
def test_platt_never_reverses_a_ranking(labels: list[int], p: list[float], message: str) -> None:
    found = fit_platt(labels, p)
    assert found.kind == "none"
    assert message in str(found.reason)


@settings(max_examples=100, deadline=None)
@given(rows())
def test_temperature_maximises_the_likelihood_and_keeps_ranks(data: Rows) -> None:
    labels, p = data
    found = fit_temperature(labels, p)
    calibrated = found.apply(p)
    assert loss(labels, calibrated) <= loss(labels, p) + 1e-12
    assert roc_auc_score(labels, calibrated) == roc_auc_score(labels, p)

    def at(log_temperature: float) -> float:
        return loss(labels, expit(logit(p) / np.exp(log_temperature)))

    ends = (float(np.log(TEMPERATURES[0])), float(np.log(TEMPERATURES[1])))
    best = minimize_scalar(at, bounds=ends, method="bounded", options={"xatol": 1e-9})
    if found.temperature is not None:
        assert loss(labels, calibrated) <= best.fun + 1e-12
    else:
        assert min(at(end) for end in ends) <= best.fun + 1e-12


@settings(max_examples=100, deadline=None)
@given(rows())
def test_isotonic_matches_scikit_learn(data: Rows) -> None:
    labels, p = data
    found = fit_isotonic(labels, p)
    grid = np.linspace(0, 1, 101)
    oracle = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, labels)
    np.testing.assert_allclose(found.apply(grid), oracle.predict(grid), atol=1e-12)
    assert loss(labels, found.apply(p)) <= loss(labels, p) + 1e-12
    assert (np.diff(found.apply(grid)) >= 0).all()


def test_isotonic_hand_computed() -> None:
    # 0.4 and 0.6 are the wrong way round, so both become one half; below 0.2 and above 0.8 nothing more is known.
    found = fit_isotonic([0, 1, 0, 1], [0.2, 0.4, 0.6, 0.8])
    assert (found.inputs, found.outputs) == ((0.2, 0.4, 0.6, 0.8), (0.0, 0.5, 0.5, 1.0))
    np.testing.assert_allclose(found.apply([0.0, 0.3, 0.5, 0.7, 1.0]), [0, 0.25, 0.5, 0.75, 1])


@settings(max_examples=50, deadline=None)
@given(rows())
def test_a_calibration_survives_json(data: Rows) -> None:
    for found in (fit_platt(*data), fit_temperature(*data), fit_isotonic(*data), Calibration()):
        read = READER.validate_json(json.dumps(asdict(found), allow_nan=False))
        assert read == found
        np.testing.assert_array_equal(read.apply(data[1]), found.apply(data[1]))


def test_lowest_temperature_separates_probabilities_as_documented() -> None:
    coldest = Calibration("temperature", temperature=TEMPERATURES[0])
    parted = coldest.apply([0.5, 0.9, 0.99, 0.999, 0.9993])
    assert (np.diff(parted) > 0).all()
    np.testing.assert_array_equal(coldest.apply([0.9995, 0.9999]), [1, 1])


def test_none_changes_nothing() -> None:
    np.testing.assert_array_equal(Calibration().apply([0.0, 0.2, 1.0]), [0.0, 0.2, 1.0])


def test_probabilities_of_0_and_1_do_not_dominate_the_fit() -> None:
    # 45 of 50 are right at 0.8 in each class; one more negative has a probability of exactly 1.
    labels = np.repeat([0, 1, 0], [50, 50, 1])
    p = np.r_[np.repeat([0.2, 0.8, 0.8, 0.2], [45, 5, 45, 5]), 1.0]
    found = fit_temperature(labels, p)
    # log(9) / log(4) would be the coldness without it.
    assert found.temperature is not None
    assert np.log(4) / np.log(9) < found.temperature < 20
    np.testing.assert_array_equal(found.apply([0.0, 0.5, 1.0]), [0.0, 0.5, 1.0])


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_gives_no_calibration_with_a_reason(label: int) -> None:
    for fit in (fit_platt, fit_temperature, fit_isotonic):
        found = fit([label] * 3, [0.1, 0.5, 0.9])
        assert found == Calibration(reason=f"only one class: {3 * label} of 3 validation cases positive")


def test_no_temperature_for_perfect_or_mostly_wrong_predictions() -> None:
    right = fit_temperature([0, 0, 1, 1], [0.1, 0.4, 0.6, 0.9])
    assert (right.kind, right.temperature) == ("none", None)
    assert "below 0.2" in str(right.reason)
    wrong = fit_temperature([1, 1, 0, 0], [0.1, 0.4, 0.6, 0.9])
    assert "above 20" in str(wrong.reason)
    assert fit_temperature([0, 1], [0.5, 0.5]).reason == wrong.reason


@settings(deadline=None)
@given(rows())
def test_log_loss_helper_matches_scikit_learn(data: Rows) -> None:
    assume(data[0].min() < data[0].max())
    assert loss(*data) == pytest.approx(log_loss(*data))


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"kind": "temperature", "temperature": 0.0}, "temperature"),
        ({"kind": "temperature", "temperature": None}, "expected temperature"),
        ({"kind": "none", "temperature": 2.0}, "kind none has temperature"),
        ({"kind": "isotonic", "inputs": [0.1, 0.2], "outputs": [0.5]}, "2 inputs and 1 outputs"),
        ({"kind": "isotonic", "inputs": [0.2, 0.1], "outputs": [0.5, 0.6]}, "ascending"),
        ({"kind": "isotonic", "inputs": [0.1, 0.2], "outputs": [0.5, 1.6]}, "outputs"),
        ({"kind": "isotonic"}, "0 inputs"),
        ({"kind": "isotonic", "temperature": 2.0, "inputs": [0.1], "outputs": [0.5]}, "isotonic has temperature"),
        ({"kind": "platt"}, "expected intercept and slope"),
        ({"kind": "platt", "slope": 1.0}, "expected intercept and slope"),
        ({"kind": "platt", "slope": -1.0, "intercept": 0.0}, "slope"),
        ({"kind": "platt", "slope": 1.0, "intercept": float("nan")}, "intercept"),
        ({"kind": "platt", "slope": 1, "intercept": 0, "temperature": 2.0}, "expected intercept and slope"),
        ({"kind": "beta"}, "kind"),
        ({"kind": "none", "slope": 1}, "slope"),
        ({"kind": "isotonic", "inputs": ["a"], "outputs": [1]}, "inputs"),
    ],
)
def test_invalid_calibrations_are_refused(document: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        READER.validate_json(json.dumps(document))


def test_invalid_probabilities_are_refused_by_apply() -> None:
    with pytest.raises(LungtlError, match=r"contain 1\.5"):
        Calibration("temperature", temperature=2.0).apply([0.5, 1.5])
