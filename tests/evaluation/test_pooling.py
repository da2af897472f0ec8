from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lungtl.evaluation.controls import fit_diameter
from lungtl.evaluation.delong import compare_aurocs
from lungtl.evaluation.estimate import Difference
from lungtl.evaluation.pooling import NO_TEST, Fold, over_folds, pool_folds, pooled_gain, shared_calibration
from lungtl.evaluation.weighted import METRICS
from lungtl.settings.errors import LungtlError
from tests.evaluation.folds import cohort, fold


@settings(max_examples=15, deadline=None)
@given(st.integers(16, 30), st.integers(3, 5), st.integers(0, 5))
def test_every_bag_occurs_once_with_its_own_folds_prediction(n_patients: int, folds: int, seed: int) -> None:
    bags = cohort(n_patients, seed)
    parts = [fold(bags, number, folds, seed) for number in range(folds)]
    pooled = pool_folds(parts)
    assert pooled["bag_id"].tolist() == sorted(bags["bag_id"])
    truth = bags.set_index("bag_id").loc[pooled["bag_id"]]
    assert pooled["label"].tolist() == truth["bag_label"].tolist()
    assert pooled["patient_id"].tolist() == truth["patient_id"].tolist()
    assert (pooled.groupby("patient_id")["fold"].nunique() == 1).all()
    for part in parts:
        own = pooled[pooled["fold"] == part.number].set_index("bag_id")["probability"]
        assert own.to_dict() == part.predictions.set_index("bag_id")["probability"].to_dict()
    pd.testing.assert_frame_equal(pool_folds(parts[::-1]), pooled)


def test_the_diameter_control_is_fitted_on_the_folds_own_training_bags() -> None:
    bags = cohort(20)
    parts = [fold(bags, number, 4) for number in range(4)]
    pooled = pool_folds(parts).merge(bags[["bag_id", "diameter_mm"]], on="bag_id")
    for part in parts:
        own, train = pooled[pooled["fold"] == part.number], part.split[part.split["split"] == "train"]
        expected = fit_diameter(train["diameter_mm"], train["label"]).predict(own["diameter_mm"])
        np.testing.assert_allclose(own["control_diameter"], expected)


def test_pooled_prevalence_is_one_constant_and_ranks_nothing() -> None:
    """What a fold's own training share would say is less than chance."""
    bags = cohort(21)
    parts = [fold(bags, number, 4) for number in range(4)]
    pooled = pool_folds(parts)
    shares = [part.split.loc[part.split["split"] == "train", "label"].mean() for part in parts]
    assert pooled["control_prevalence"].to_numpy() == pytest.approx(np.full(len(bags), sum(shares) / 4))
    assert roc_auc_score(pooled["label"], pooled["control_prevalence"]) == 0.5
    own = [shares[number] for number in pooled["fold"]]
    assert roc_auc_score(pooled["label"], own) < 0.5


def test_a_pooled_gain_has_no_p_value() -> None:
    bags = cohort(20)
    pooled = pool_folds([fold(bags, number, 4) for number in range(4)])
    columns = pooled["label"], pooled["probability"], pooled["control_diameter"], pooled["patient_id"]
    gain, tested = pooled_gain(*columns), compare_aurocs(*columns)
    assert tested.p_value is not None
    assert gain == replace(tested, p_value=None, undefined=NO_TEST)


def test_a_pooled_gain_without_an_interval_gives_the_reason() -> None:
    p = [0.2, 0.8, 0.3, 0.9]
    gain = pooled_gain([0, 1, 0, 1], p, p, "abcd")
    assert gain == Difference(0.0, undefined="no interval: both models rank all cases alike")


def test_the_untrained_control_is_pooled_if_all_runs_have_it() -> None:
    bags = cohort(20)
    plain = [fold(bags, number, 4) for number in range(4)]
    parts = [replace(part, predictions=part.predictions.assign(control_untrained=part.number / 8)) for part in plain]
    pooled = pool_folds(parts)
    assert (pooled["control_untrained"] == pooled["fold"] / 8).all()
    assert "control_untrained" not in pool_folds([*parts[:3], plain[3]]).columns


def test_a_control_missing_in_one_fold_is_omitted() -> None:
    bags = cohort(20)
    parts = [fold(bags, number, 4) for number in range(4)]
    parts[2].split.loc[0, "diameter_mm"] = np.nan
    assert [c for c in pool_folds(parts).columns if c.startswith("control_")] == ["control_prevalence"]


def calibrated(part: Fold, kind: str) -> Fold:
    """The probabilities' squares as what the fold's own calibration makes of them."""
    predictions = part.predictions.assign(calibrated=part.predictions["probability"] ** 2)
    return replace(part, predictions=predictions, calibration=kind)


def test_calibrated_probabilities_are_pooled_where_the_folds_share_a_kind() -> None:
    bags = cohort(20)
    plain = [fold(bags, number, 4) for number in range(4)]
    parts = [calibrated(part, "temperature") for part in plain]
    pooled = pool_folds(parts)
    assert pooled["calibrated"].to_numpy() == pytest.approx(pooled["probability"].to_numpy() ** 2)
    assert shared_calibration(parts) == "temperature"
    mixed = [*parts[:3], plain[3]]  # its validation bags were too few
    assert shared_calibration(mixed) == "none"
    assert "calibrated" not in pool_folds(mixed).columns


def test_the_mean_of_the_folds_is_not_the_pooled_value() -> None:
    """Models that rank alike well but on other scales: right within each fold, wrong across them."""
    labels, folds = np.tile([0, 1], 4), np.repeat([0, 1], 4)
    scales = np.where(folds == 0, 0.1, 0.9) + 0.05 * labels
    within = [float(roc_auc_score(labels[folds == k], scales[folds == k])) for k in (0, 1)]
    parts = [
        Fold(k, pd.DataFrame(), pd.DataFrame(), dict.fromkeys(METRICS, 0.5) | {"auroc": within[k]}) for k in (0, 1)
    ]
    assert over_folds(parts)["auroc"] == {"values": [1.0, 1.0], "n": 2, "mean": 1.0, "sd": 0.0}
    assert roc_auc_score(labels, scales) == pytest.approx(0.75)


def test_mean_and_sd_of_the_folds_hand_computed() -> None:
    values = [0.7, 0.8, None, 0.9]
    parts = [Fold(k, pd.DataFrame(), pd.DataFrame(), dict.fromkeys(METRICS, v)) for k, v in enumerate(values)]
    for name, spread in over_folds(parts).items():
        assert spread["values"] == values, name
        assert (spread["n"], spread["mean"], spread["sd"]) == (3, pytest.approx(0.8), pytest.approx(0.1))
    nothing = over_folds([parts[2]])["auroc"]
    assert nothing == {"values": [None], "n": 0, "mean": None, "sd": None}


def changed(part: Fold, **columns: Any) -> Fold:
    return Fold(part.number, part.split.assign(**columns), part.predictions, part.metrics)


def test_folds_of_two_splits_are_refused() -> None:
    bags = cohort(20)
    parts = [fold(bags, 0, 4, seed=0), *(fold(bags, number, 4, seed=1) for number in (1, 2, 3))]
    with pytest.raises(LungtlError, match=r"patient p\d+ is tested twice"):
        pool_folds(parts)


def test_the_same_fold_twice_is_refused() -> None:
    bags = cohort(20)
    first = fold(bags, 0, 4)
    for number in (0, 1):
        again = Fold(number, first.split, first.predictions, first.metrics)
        with pytest.raises(LungtlError, match=r"patient p\d+ is tested twice"):
            pool_folds([first, again])


def test_a_missing_fold_is_refused() -> None:
    bags = cohort(20)
    with pytest.raises(LungtlError, match=r"case b\d+ is tested by no fold"):
        pool_folds([fold(bags, number, 4) for number in (0, 1, 3)])


def test_folds_with_different_bags_or_labels_are_refused() -> None:
    bags = cohort(20)
    parts = [fold(bags, number, 4) for number in range(4)]
    for other in (
        changed(parts[3], label=1 - parts[3].split["label"]),
        Fold(3, parts[3].split.iloc[1:], parts[3].predictions, parts[3].metrics),
    ):
        with pytest.raises(LungtlError, match="folds 0 and 3 have different cases"):
            pool_folds([*parts[:3], other])


@pytest.mark.parametrize("rows", [slice(1, None), [0, 0, *range(1, 100)]])
def test_predictions_that_are_not_those_of_the_test_bags_are_refused(rows: Any) -> None:
    bags = cohort(20)
    parts = [fold(bags, number, 4) for number in range(4)]
    own = parts[1].predictions
    kept = own.iloc[rows] if isinstance(rows, slice) else own.iloc[[row for row in rows if row < len(own)]]
    with pytest.raises(LungtlError, match="fold 1 has predictions of"):
        pool_folds([parts[0], Fold(1, parts[1].split, kept, parts[1].metrics), *parts[2:]])
