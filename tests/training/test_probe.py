from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from lungtl.bundle import PROBE, load_probe
from lungtl.settings.errors import LungtlError
from lungtl.training import probe
from lungtl.training.probe import STRENGTHS, fit_probe, pool_slices, probed_features
from tests.models.tiny import tiny_classifier


class Made:
    """Two to four slices a bag of `width` numbers; the first is higher in positive bags, the last is constant."""

    views = 1

    def __init__(self, labels: Any, gap: float, width: int = 6, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.bags = {}
        for i, label in enumerate(labels):
            rows = random.normal(size=(2 + i % 3, width)) * 10.0 ** (np.arange(width) % 6 - 2)
            rows[:, 0] += gap * label * 1e-2
            rows[:, -1] = 7
            self.bags[f"b{i}"] = torch.from_numpy(rows.astype(np.float32))

    def rows(self, bag_id: str, view: int, indices: Tensor | None) -> Tensor:
        assert (view, indices) == (0, None)
        return self.bags[bag_id].clone()


def table(labels: Any, bags_per_patient: int = 2) -> pd.DataFrame:
    n = len(labels)
    patients = [f"p{i // bags_per_patient}" for i in range(n)]
    return pd.DataFrame({"bag_id": [f"b{i}" for i in range(n)], "patient_id": patients, "label": labels})


LABELS = (np.arange(80) // 2) % 2


def test_slices_are_pooled_by_mean_and_maximum() -> None:
    features: Any = SimpleNamespace(rows=lambda *_: torch.tensor([[1.0, -4.0], [3.0, -2.0], [5.0, -9.0]]))
    np.testing.assert_array_equal(pool_slices(features, ["a", "b"]), [[3.0, -5.0, 5.0, -2.0]] * 2)


def test_it_is_scikit_learns_regression_on_standardised_features() -> None:
    features, bags = Made(LABELS, gap=1.5), table(LABELS)
    fitted = fit_probe(features, bags)
    x = pool_slices(features, bags["bag_id"]).astype(float)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=fitted.strength, max_iter=500)).fit(x, LABELS)
    np.testing.assert_allclose(fitted.predict(x), oracle.predict_proba(x)[:, 1], atol=1e-6)
    assert (fitted.n, fitted.strength in STRENGTHS) == (80, True)
    other = Made(LABELS, gap=1.5, seed=1)
    assert roc_auc_score(LABELS, fitted.predict(pool_slices(other, bags["bag_id"]))) > 0.8


def test_the_penalty_follows_the_signal() -> None:
    noise, signal = (fit_probe(Made(LABELS, gap), table(LABELS)).strength for gap in (0.0, 4.0))
    assert noise <= 1e-3 < signal == STRENGTHS[-1]


def test_inner_folds_keep_patients_together() -> None:
    """Bags of a patient are copies of one another: known copies would justify any weight."""
    random = np.random.default_rng(0)
    labels = np.repeat(random.integers(0, 2, 40), 4)
    features = Made(labels, gap=0.0, width=40)
    features.bags = {name: features.bags[f"b{int(name[1:]) // 4 * 4}"] for name in features.bags}
    together, apart = (fit_probe(features, table(labels, size)).strength for size in (4, 1))
    assert together <= 1e-3 < apart == STRENGTHS[-1]


def test_a_class_of_one_patient_has_no_inner_folds() -> None:
    labels = np.array([1, 1, 0, 0, 0, 0])
    assert fit_probe(Made(labels, 1.0), table(labels)).strength == probe.FEW


def test_a_file_keeps_it_exactly(tmp_path: Path) -> None:
    assert load_probe(tmp_path) is None
    features, bags = Made(LABELS, gap=1.5), table(LABELS)
    fitted = fit_probe(features, bags)
    fitted.save(tmp_path / PROBE)
    loaded = load_probe(tmp_path)
    assert loaded is not None
    x = pool_slices(features, bags["bag_id"])
    np.testing.assert_array_equal(loaded.predict(x), fitted.predict(x))
    assert (loaded.strength, loaded.n) == (fitted.strength, 80)
    (tmp_path / PROBE).write_bytes((tmp_path / PROBE).read_bytes()[:-9])
    with pytest.raises(LungtlError, match="damaged bundle"):
        load_probe(tmp_path)


def test_only_a_backbone_that_is_frozen_entirely_has_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    classifier, features = tiny_classifier(), Made([0, 1], 0.0)
    assert probed_features(classifier, features) is features
    assert probed_features(classifier, None) is None
    assert "requires cached features" in caplog.text
    classifier.cut(1)
    assert probed_features(classifier, features) is None
    assert "a part of the backbone trains" in caplog.text
