"""Pooling the mean of all settings of a cross-validation, `sweep.ensemble=true`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from lungtl.settings.errors import LungtlError
from lungtl.sweeps.folds.pooled import pool_sweep
from tests.documents import check_document
from tests.sweeps.folds.test_pooled import FOLDS, run_folder


def test_the_mean_of_all_settings_is_pooled_as_one(tmp_path: Path) -> None:
    for number, (part, rate) in enumerate((part, rate) for part in range(FOLDS) for rate in (1, 2)):
        run_folder(tmp_path, number, part, lr=rate, covariates=("diameter",), untrained=True)
        if rate == 2:  # another network, which ranks backwards on one patient in three
            file = tmp_path / str(number) / "predictions.csv"
            table = pd.read_csv(file)
            table["probability"] = table["probability"].where(table.index % 3 > 0, 1 - table["probability"])
            table.to_csv(file, index=False)
    pool_sweep(tmp_path, ensemble=True)
    one, two, both = (pd.read_csv(tmp_path / "pooled" / name / "oof_predictions.csv") for name in "012")
    np.testing.assert_allclose(both["probability"], (one["probability"] + two["probability"]) / 2)
    assert (both["bag_id"] == one["bag_id"]).all()
    assert "probability_with_covariates" in both
    assert "control_untrained" not in both  # each network has its own
    document = json.loads((tmp_path / "pooled" / "2" / "metrics.json").read_text())
    check_document(document)
    assert document["setting"] == "toy tiny frozen mean ensemble"
    assert len(document["runs"]) == 6
    assert document["bag"]["metrics"]["auroc"]["value"] == pytest.approx(
        roc_auc_score(both["label"], both["probability"])
    )
    first = both[both["fold"] == 0]
    assert document["folds"]["auroc"]["values"][0] == pytest.approx(roc_auc_score(first["label"], first["probability"]))


def test_one_setting_has_no_mean_of_its_own(tmp_path: Path) -> None:
    for part in range(FOLDS):
        run_folder(tmp_path, part, part)
    pool_sweep(tmp_path, ensemble=True)
    assert not (tmp_path / "pooled" / "1").exists()


def test_settings_on_different_cases_are_pooled_each_before_the_error(tmp_path: Path) -> None:
    for number, (part, patients) in enumerate((part, patients) for part in range(FOLDS) for patients in (18, 24)):
        run_folder(tmp_path, number, part, lr=patients, patients=patients)
    with pytest.raises(LungtlError, match=r"mean of the settings is not pooled: .* different cases in fold 0"):
        pool_sweep(tmp_path, ensemble=True)
    assert len(pd.read_csv(tmp_path / "pooled" / "table.csv")) == 2
