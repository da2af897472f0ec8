from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.metrics import roc_auc_score

from lungtl.evaluation.controls import Controls, fit_controls, fit_diameter
from lungtl.evaluation.metrics import score
from lungtl.settings.errors import LungtlError
from tests.evaluation.cohort import cohort


def frame(seed: int) -> pd.DataFrame:
    data = cohort(seed=seed)
    return pd.DataFrame(
        {"label": data.labels, "patient_id": data.patient_ids, "diameter_mm": data.diameter_mm.round(0)}
    )


def test_prevalence_is_the_training_share() -> None:
    train = pd.DataFrame({"label": [0, 0, 0, 1], "diameter_mm": np.nan})
    controls = fit_controls(train)
    assert (controls.n, controls.prevalence, controls.diameter) == (4, 0.25, None)
    np.testing.assert_array_equal(controls.predict(train.head(3))["prevalence"], [0.25, 0.25, 0.25])


def test_diameter_control_ranks_like_the_diameter_including_ties() -> None:
    train, test = frame(1), frame(2)
    assert test["diameter_mm"].duplicated().any()
    predicted = fit_diameter(train["diameter_mm"], train["label"]).predict(test["diameter_mm"])
    assert score(test["label"], predicted, test["patient_id"]).metrics["auroc"].value == pytest.approx(
        roc_auc_score(test["label"], test["diameter_mm"]), abs=1e-12
    )


def test_diameter_control_maximises_the_likelihood() -> None:
    train = frame(1)
    logs, labels = np.log1p(train["diameter_mm"].to_numpy()), train["label"].to_numpy()

    def loss(line: NDArray[np.float64]) -> float:
        scores = line[0] * logs + line[1]
        return float((np.logaddexp(0, scores) - labels * scores).sum())

    found = fit_diameter(train["diameter_mm"], labels)
    best = minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 5000})
    assert (found.slope, found.intercept) == pytest.approx(tuple(best.x), rel=1e-5)
    # without a penalty the mean probability on train is the prevalence, and the scores are uncorrelated with the error
    error = labels - found.predict(train["diameter_mm"])
    assert error.sum() == pytest.approx(0, abs=1e-6)
    assert error @ logs == pytest.approx(0, abs=1e-6)
    # 0 is a bag without a nodule.
    expected = 1 / (1 + np.exp(-(found.intercept + found.slope * np.log1p([0.0, 4.0, 30.0]))))
    np.testing.assert_allclose(found.predict([0.0, 4.0, 30.0]), expected, rtol=1e-12)


def test_a_constant_diameter_predicts_the_prevalence() -> None:
    np.testing.assert_allclose(fit_diameter([5, 5, 5, 5], [0, 0, 0, 1]).predict([5, 9]), [0.25, 0.25])


@pytest.mark.parametrize(
    ("train", "labels", "slope"),
    [([3, 4, 8, 9], [0, 0, 1, 1], 1), ([3, 5, 5, 9], [0, 0, 1, 1], 1), ([3, 4, 8, 9], [1, 1, 0, 0], -1)],
)
def test_separable_diameters_have_a_finite_slope(train: list[float], labels: list[int], slope: int) -> None:
    found = fit_diameter(train, labels)
    assert np.sign(found.slope) == slope
    assert abs(found.slope) < 10
    assert np.isfinite(found.intercept)


def test_other_diameters_are_fitted_without_a_penalty() -> None:
    # half of the smaller and three quarters of the larger: the line passes through both log-odds
    found = fit_diameter([3, 3, 9, 9, 9, 9], [0, 1, 0, 1, 1, 1])
    np.testing.assert_allclose(found.predict([3, 9]), [0.5, 0.75])


@pytest.mark.parametrize(
    ("train", "labels", "test", "message"),
    [
        ([5, np.nan], [0, 1], [5], "training diameters contain nan"),
        ([5, 9], [0, 1], [np.nan], "^diameters contain nan"),
        ([5, -2], [0, 1], [5], "contain -2"),
    ],
)
def test_invalid_diameters_are_refused(train: list[float], labels: list[int], test: list[float], message: str) -> None:
    with pytest.raises(LungtlError, match=message):
        fit_diameter(train, labels).predict(test)


def test_controls_depend_on_the_training_bags_only() -> None:
    train, test = frame(1), frame(2)
    controls = fit_controls(train).predict(test)
    assert list(controls) == ["prevalence", "diameter"]
    assert set(controls["prevalence"]) == {train["label"].mean()}
    flipped = fit_controls(train).predict(test.assign(label=1 - test["label"]))
    assert np.array_equal(flipped["diameter"], controls["diameter"])


@pytest.mark.parametrize(("side", "which"), [("train", "training"), ("test", "scored")])
def test_an_unknown_diameter_disables_the_control_with_a_warning(
    side: str, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames = {"train": frame(1), "test": frame(2)}
    frames[side].loc[3, "diameter_mm"] = np.nan
    assert list(fit_controls(frames["train"]).predict(frames["test"])) == ["prevalence"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"1 of 60 {which} cases have no diameter" in record.getMessage()


def test_a_dataset_without_diameters_gives_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    train, test = (frame(seed).assign(diameter_mm=np.nan) for seed in (1, 2))
    with caplog.at_level(logging.INFO):
        assert list(fit_controls(train).predict(test)) == ["prevalence"]
    (record,) = caplog.records
    assert (record.levelno, "60 of 60 training cases" in record.getMessage()) == (logging.INFO, True)


def test_one_training_class_disables_the_diameter_control(caplog: pytest.LogCaptureFixture) -> None:
    train = frame(1).assign(label=0)
    with caplog.at_level(logging.INFO):
        assert list(fit_controls(train).predict(frame(2))) == ["prevalence"]
    assert "all 60 training labels are 0" in caplog.text


@pytest.mark.parametrize("known", [True, False])
def test_controls_survive_json(known: bool) -> None:
    train = frame(1) if known else frame(1).assign(diameter_mm=np.nan)
    controls = fit_controls(train)
    read = Controls.from_dict(json.loads(json.dumps(controls.to_dict(), allow_nan=False)))
    assert read == controls
    assert (read.diameter is not None) == known


@pytest.mark.parametrize("wrong", [{}, {"n": 3, "prevalence": 0.5}, {"n": 3, "prevalence": "x", "diameter": None}])
def test_invalid_stored_controls_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(LungtlError, match=r"controls cannot be read .*fetch the bundle again"):
        Controls.from_dict(wrong)
