from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lungtl.errors import LungtlError
from lungtl.evaluation.controls import (
    control_probabilities,
    diameter_control,
    prevalence_control,
)
from lungtl.evaluation.metrics import score
from tests.evaluation.cohort import cohort


def frame(seed: int) -> pd.DataFrame:
    data = cohort(seed=seed)
    return pd.DataFrame(
        {"label": data.labels, "patient_id": data.patient_ids, "diameter_mm": data.diameter_mm.round(0)}
    )


def test_the_prevalence_is_that_of_train() -> None:
    np.testing.assert_array_equal(prevalence_control([0, 0, 0, 1], 3), [0.25, 0.25, 0.25])


def test_the_diameter_control_ranks_as_the_diameter_does_ties_included() -> None:
    train, test = frame(1), frame(2)
    assert test["diameter_mm"].duplicated().any()
    predicted = diameter_control(train["diameter_mm"], train["label"], test["diameter_mm"])
    assert score(test["label"], predicted, test["patient_id"]).metrics["auroc"].value == pytest.approx(
        roc_auc_score(test["label"], test["diameter_mm"]), abs=1e-12
    )


def test_the_diameter_control_is_a_logistic_regression_on_the_standardised_logarithm() -> None:
    train = frame(1)
    logs = np.log1p(train["diameter_mm"].to_numpy())
    model: Any = LogisticRegression()
    model.fit(((logs - logs.mean()) / logs.std())[:, None], train["label"])
    # 0 is a bag without a nodule.
    new = (np.log1p([0.0, 4.0, 30.0]) - logs.mean()) / logs.std()
    expected = 1 / (1 + np.exp(-(model.intercept_[0] + model.coef_[0, 0] * new)))
    np.testing.assert_allclose(
        diameter_control(train["diameter_mm"], train["label"], [0.0, 4.0, 30.0]), expected, rtol=1e-9
    )


def test_one_diameter_for_all_says_the_prevalence() -> None:
    np.testing.assert_allclose(diameter_control([5, 5, 5, 5], [0, 0, 0, 1], [5, 9]), [0.25, 0.25], atol=1e-3)


@pytest.mark.parametrize(
    ("train", "labels", "test", "said"),
    [
        ([5, 9], [1, 1], [5], "all 2 train labels are 1"),
        ([5, np.nan], [0, 1], [5], "train diameters hold nan"),
        ([5, 9], [0, 1], [np.nan], "^diameters hold nan"),
        ([5, -2], [0, 1], [5], "hold -2"),
        ([5, 9, 7], [0, 1], [5], "3 train diameters, 2 labels"),
        ([[5], [9]], [0, 1], [5], "one dimension"),
    ],
)
def test_a_diameter_control_that_cannot_be_fitted_is_refused(
    train: list[float], labels: list[int], test: list[float], said: str
) -> None:
    with pytest.raises(LungtlError, match=said):
        diameter_control(train, labels, test)


def test_the_controls_know_the_training_bags_alone() -> None:
    train, test = frame(1), frame(2)
    controls = control_probabilities(train, test)
    assert list(controls) == ["prevalence", "diameter"]
    assert set(controls["prevalence"]) == {train["label"].mean()}
    flipped = control_probabilities(train, test.assign(label=1 - test["label"]))
    assert np.array_equal(flipped["diameter"], controls["diameter"])


@pytest.mark.parametrize("side", ["train", "test"])
def test_an_unknown_diameter_on_either_side_leaves_the_control_out_and_is_logged(
    side: str, caplog: pytest.LogCaptureFixture
) -> None:
    frames = {"train": frame(1), "test": frame(2)}
    frames[side].loc[3, "diameter_mm"] = np.nan
    with caplog.at_level(logging.INFO):
        assert list(control_probabilities(frames["train"], frames["test"])) == ["prevalence"]
    assert "unknown diameter of 1 of 120 bags" in caplog.text


def test_a_train_split_of_one_class_leaves_the_diameter_control_out(caplog: pytest.LogCaptureFixture) -> None:
    train = frame(1).assign(label=0)
    with caplog.at_level(logging.INFO):
        assert list(control_probabilities(train, frame(2))) == ["prevalence"]
    assert "all 60 train labels are 0" in caplog.text
