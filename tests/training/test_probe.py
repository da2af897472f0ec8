from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lungtl.bundle import PROBE, load_probe
from lungtl.data.bags import Features
from lungtl.models.inference import pool_slices
from lungtl.settings.errors import LungtlError
from lungtl.training import probe
from lungtl.training.probe import STRENGTHS, fit_probe, probed_features
from tests.models.tiny import tiny_classifier


def made(labels: Any, gap: float, width: int = 6, seed: int = 0) -> NDArray[np.float32]:
    """Pooled bags of two to four slices of `width` numbers; the first is higher in positive bags, the last constant."""
    random, bags = np.random.default_rng(seed), []
    for i, label in enumerate(labels):
        rows = random.normal(size=(2 + i % 3, width)) * 10.0 ** (np.arange(width) % 6 - 2)
        rows[:, 0] += gap * label * 1e-2
        rows[:, -1] = 7
        bags.append(pool_slices(torch.from_numpy(rows.astype(np.float32))))
    return np.stack(bags)


def table(labels: Any, bags_per_patient: int = 2) -> pd.DataFrame:
    n = len(labels)
    patients = [f"p{i // bags_per_patient}" for i in range(n)]
    return pd.DataFrame({"bag_id": [f"b{i}" for i in range(n)], "patient_id": patients, "label": labels})


LABELS = (np.arange(80) // 2) % 2


def test_slices_are_pooled_by_mean_and_maximum() -> None:
    np.testing.assert_array_equal(pool_slices(torch.tensor([[1.0, -4.0], [3.0, -2.0], [5.0, -9.0]])), [3, -5, 5, -2])


def test_it_is_scikit_learns_regression_on_standardised_features() -> None:
    x = made(LABELS, gap=1.5)
    fitted = fit_probe(x, table(LABELS))
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=fitted.strength, max_iter=500)).fit(x, LABELS)
    np.testing.assert_allclose(fitted.predict(x), oracle.predict_proba(x)[:, 1], atol=1e-5)
    assert (fitted.n, fitted.strength in STRENGTHS) == (80, True)
    assert roc_auc_score(LABELS, fitted.predict(made(LABELS, gap=1.5, seed=1))) > 0.8


def test_a_share_of_the_readers_counts_as_that_many_bags() -> None:
    """A label of .75 is three positive copies and a negative one, each of a quarter of a bag's weight."""
    x, shares = made(LABELS, gap=1.5), np.where(LABELS == 1, 0.75, 0.0)
    ((weights, intercept),) = probe._fit(x.astype(float), shares, (0.01,), 0)
    copies, labels = np.repeat(x, 4, axis=0), (np.tile(np.arange(4), 80) < 4 * shares.repeat(4)).astype(int)
    scaled = StandardScaler().fit(x)
    oracle = LogisticRegression(C=0.01 / 4, max_iter=500).fit(scaled.transform(copies), labels)
    np.testing.assert_allclose(x @ weights + intercept, oracle.decision_function(scaled.transform(x)), atol=1e-3)


def test_covariates_stand_beside_the_features_and_are_hardly_penalised() -> None:
    """Noise as features: what is left is the ranking of the covariate alone."""
    random = np.random.default_rng(0)
    size = np.exp(random.normal(2, 0.5, 80) + LABELS)
    bags = table(LABELS).assign(diameter_mm=size)
    fitted = fit_probe(made(LABELS, gap=0.0), bags, ("diameter",))
    other = made(LABELS, gap=0.0, seed=1)
    assert roc_auc_score(LABELS, fitted.predict(other, bags)) == pytest.approx(roc_auc_score(LABELS, size), abs=0.02)
    assert np.isnan(fitted.predict(other, bags.assign(diameter_mm=np.nan))).all()


def test_the_penalty_follows_the_signal() -> None:
    noise, signal = (fit_probe(made(LABELS, gap), table(LABELS)).strength for gap in (0.0, 4.0))
    assert noise <= 1e-3 < signal == STRENGTHS[-1]


def test_inner_folds_keep_patients_together() -> None:
    """Bags of a patient are copies of one another: known copies would justify any weight."""
    labels = np.repeat(np.random.default_rng(0).integers(0, 2, 40), 4)
    copies = made(labels, gap=0.0, width=40)[np.arange(160) // 4 * 4]
    together, apart = (fit_probe(copies, table(labels, size)).strength for size in (4, 1))
    assert together <= 1e-3 < apart == STRENGTHS[-1]


def test_a_class_of_one_patient_has_no_inner_folds() -> None:
    labels = np.array([1, 1, 0, 0, 0, 0])
    assert fit_probe(made(labels, 1.0), table(labels)).strength == probe.FEW


def test_a_file_keeps_it_exactly(tmp_path: Path) -> None:
    assert load_probe(tmp_path) is None
    x, bags = made(LABELS, gap=1.5), table(LABELS).assign(age=np.arange(80.0))
    fitted = fit_probe(x, bags, ("age",))
    fitted.save(tmp_path / PROBE)
    loaded = load_probe(tmp_path)
    assert loaded is not None
    np.testing.assert_array_equal(loaded.predict(x, bags), fitted.predict(x, bags))
    assert (loaded.strength, loaded.n, loaded.covariates) == (fitted.strength, 80, ("age",))
    (tmp_path / PROBE).write_bytes((tmp_path / PROBE).read_bytes()[:-9])
    with pytest.raises(LungtlError, match="damaged bundle"):
        load_probe(tmp_path)


def test_only_a_backbone_that_is_frozen_entirely_has_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    classifier, features = tiny_classifier(), cast(Features, object())
    assert probed_features(classifier, features) is features
    assert probed_features(classifier, None) is None
    assert "requires cached features" in caplog.text
    classifier.cut(1)
    assert probed_features(classifier, features) is None
    assert "a part of the backbone trains" in caplog.text
