from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lungtl.bundle import load_covariates
from lungtl.evaluation.controls import Controls, fit_controls
from lungtl.evaluation.covariates import (
    DENSITY,
    DIAMETER,
    LOGIT,
    UNPENALISED,
    Regression,
    check_covariates,
    fit_covariates,
    fit_regression,
    input_values,
    warn_unknown,
)
from lungtl.settings.errors import LungtlError, UsageError


def made(n: int = 120, seed: int = 0) -> pd.DataFrame:
    """Bags whose log-odds are 0.8 times the network's plus 2 log(1 + mm) plus 0.01 HU, minus a constant."""
    random = np.random.default_rng(seed)
    network, diameter, density = random.normal(size=n), random.uniform(3, 30, n), random.normal(100, 80, n)
    truth = 0.8 * network + 2 * np.log1p(diameter) + 0.01 * density
    labels = (random.random(n) < expit(truth - np.median(truth))).astype(int)
    return pd.DataFrame({
        "bag_id": [f"b{i}" for i in range(n)], "patient_id": [f"p{i}" for i in range(n)], "label": labels,
        "probability": expit(network), "diameter_mm": diameter, DENSITY: density,
    })  # fmt: skip


INPUTS = (LOGIT, DIAMETER, DENSITY)


def test_inputs_are_log_odds_and_the_diameter_s_logarithm() -> None:
    bags = pd.DataFrame({"probability": [0.5, 0.9, 1.0], "diameter_mm": [0.0, 9.0, np.nan], "age": [40, 50, 60]})
    values = input_values(bags, (LOGIT, DIAMETER, "age", "smoker"))
    expected = [[0, 0, 40, np.nan], [logit(0.9), np.log(10), 50, np.nan], [values[2, 0], np.nan, 60, np.nan]]
    np.testing.assert_allclose(values, expected)
    assert 15 < values[2, 0] < 17  # a float32 that rounded to 1


def test_it_is_two_regressions_of_scikit_learn() -> None:
    bags, others, training = made(), made(seed=1), made(400, seed=2)
    fitted = fit_covariates(training, bags, [DIAMETER, DENSITY])
    assert fitted is not None
    assert (fitted.inputs, fitted.covariates, fitted.n) == (INPUTS, (DIAMETER, DENSITY), 120)
    alone = make_pipeline(StandardScaler(), LogisticRegression(C=100, tol=1e-10))
    alone.fit(input_values(training, INPUTS[1:]), training["label"])

    def both(table: pd.DataFrame) -> NDArray[np.float64]:
        network = input_values(table, [LOGIT])[:, 0]
        return np.column_stack([network, alone.decision_function(input_values(table, INPUTS[1:]))])

    oracle = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10)).fit(both(bags), bags["label"])
    np.testing.assert_allclose(fitted.predict(others), oracle.predict_proba(both(others))[:, 1], atol=1e-5)
    assert roc_auc_score(others["label"], fitted.predict(others)) > roc_auc_score(
        others["label"], others["probability"]
    )


def test_a_bag_that_lacks_a_covariate_has_no_prediction_and_is_named(caplog: pytest.LogCaptureFixture) -> None:
    fitted, bags = fit_covariates(made(), made(), [DIAMETER, DENSITY]), made(6, seed=2)
    assert fitted is not None
    bags.loc[4, DENSITY] = np.nan
    assert np.isnan(fitted.predict(bags)).tolist() == [False] * 4 + [True, False]
    warn_unknown(bags, fitted.covariates)
    assert "no prediction with covariates for 1 of 6 cases, which lack diameter or density: b4" in caplog.text
    assert np.isnan(fitted.predict(bags.drop(columns=DENSITY))).all()  # another dataset


def test_separable_bags_have_finite_slopes() -> None:
    bags = made(20).assign(label=[0] * 10 + [1] * 10, diameter_mm=np.arange(20.0))
    fitted = fit_regression(bags, (DIAMETER,), UNPENALISED)
    assert np.isfinite(fitted.slopes[0])
    assert ((fitted.predict(bags) > 0.5) == bags["label"]).all()


def test_without_covariates_or_with_one_class_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    assert fit_covariates(made(), made(), []) is None
    assert fit_covariates(made(), made().assign(label=1), [DIAMETER]) is None
    assert "all validation cases have one label" in caplog.text


def test_a_bundle_keeps_it(tmp_path: Path) -> None:
    fitted = fit_covariates(made(), made(), [DIAMETER])
    assert fitted is not None
    document = json.loads(json.dumps({"covariates": asdict(fitted)}))
    assert load_covariates(tmp_path, document) == fitted
    assert load_covariates(tmp_path, {}) is load_covariates(tmp_path, {"covariates": None}) is None
    del document["covariates"]["slopes"]
    with pytest.raises(LungtlError, match="the bundle's covariates cannot be read"):
        load_covariates(tmp_path, document)


def store_of(bags: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A store's table of bags, and a split of it."""
    table = bags.drop(columns=["label", "probability"]).assign(bag_label=bags["label"], split=None, n_slices=3)
    return table, bags[["bag_id"]].assign(split=["train", "val", "test"] * (len(bags) // 3))


def test_covariates_are_checked_before_training() -> None:
    table, split = store_of(made(9))
    check_covariates(table, split, [DIAMETER, DENSITY])
    for name in ("dimeter", "bag_label", "n_slices", "logit"):  # a label is no covariate
        with pytest.raises(UsageError, match=f"covariates={name}: this dataset does not have it; .*diameter"):
            check_covariates(table, split, [name])
    unmeasured = table.assign(diameter_mm=np.nan)
    with pytest.raises(UsageError, match="choices: density"):
        check_covariates(unmeasured, split, [DIAMETER])


@pytest.mark.parametrize("row", [0, 1])
def test_a_training_or_validation_bag_without_a_covariate_is_named(row: int) -> None:
    table, split = store_of(made(9))
    table.loc[2, DENSITY] = np.nan  # of a test bag
    check_covariates(table, split, [DENSITY])
    table.loc[row, DENSITY] = np.nan
    with pytest.raises(
        LungtlError, match=rf"density: 1 of 6 training and validation cases have none \(first: b{row}\)"
    ):
        check_covariates(table, split, [DENSITY])


def test_size_and_density_are_a_control_where_both_are_known(caplog: pytest.LogCaptureFixture) -> None:
    train, test = made(), made(seed=1)
    controls = fit_controls(train)
    assert controls.size_density is not None
    predicted = controls.predict(test)
    assert list(predicted) == ["prevalence", "diameter", "size_density"]
    x = [input_values(bags, (DIAMETER, DENSITY)) for bags in (train, test)]
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=np.inf)).fit(x[0], train["label"])
    np.testing.assert_allclose(predicted["size_density"], oracle.predict_proba(x[1])[:, 1], atol=5e-3)
    assert Controls.from_dict(json.loads(json.dumps(controls.to_dict()))) == controls
    assert not caplog.records
    assert list(controls.predict(test.drop(columns=DENSITY))) == ["prevalence", "diameter"]
    assert fit_controls(train.drop(columns=DENSITY)).size_density is None
    assert not caplog.records  # a dataset that never has it
    test.loc[3, DENSITY] = np.nan
    assert list(controls.predict(test)) == ["prevalence", "diameter"]
    assert "no control of size and density: 1 of 120 scored cases have no density" in caplog.text


def test_the_controls_of_an_earlier_bundle_have_no_density() -> None:
    document: dict[str, Any] = fit_controls(made()).to_dict()
    del document["size_density"]
    assert Controls.from_dict(document).size_density is None


def test_a_regression_is_what_its_numbers_say() -> None:
    bags = pd.DataFrame({"probability": [0.7], "age": [60.0]})
    assert Regression((LOGIT, "age"), (2.0, -0.1), 1.0, 5).predict(bags) == pytest.approx(expit(2 * logit(0.7) - 6 + 1))
