from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lungtl.evaluation.leakage import (
    BAG,
    DATASET_LABELS,
    PATIENT,
    RANDOM_LABELS,
    SLICE,
    Floats,
    compare,
    differences,
    out_of_fold,
    permute_labels,
)
from lungtl.settings.errors import LungtlError

PATIENTS, BAGS, SLICES, WIDTH = 48, 2, 5, 64


def recognisable(seed: int = 0, signal: float = 0.0) -> tuple[pd.DataFrame, Floats]:
    """Slices that look like their patient, more like their bag, and by `signal` like their label."""
    random = np.random.default_rng(seed)
    patients = np.repeat(np.arange(PATIENTS), BAGS * SLICES)
    bags = np.repeat(np.arange(PATIENTS * BAGS), SLICES)
    malignant = patients % 2
    features = (
        random.normal(size=(PATIENTS, WIDTH))[patients] + 0.5 * random.normal(size=(PATIENTS * BAGS, WIDTH))[bags]
    )
    features += 0.1 * random.normal(size=features.shape)
    features[:, 0] += signal * malignant
    rows = pd.DataFrame({
        "bag_id": [f"b{bag}" for bag in bags], "patient_id": [f"p{p}" for p in patients], "malignant": malignant
    })  # fmt: skip
    return rows, features.astype(np.float32)


def test_permuted_labels_go_to_other_patients() -> None:
    rows, _ = recognisable()
    dealt = pd.Series(permute_labels(rows, 0))
    assert (dealt.groupby(rows["patient_id"]).nunique() == 1).all()
    assert dealt.sum() == rows["malignant"].sum()  # patients of equally many slices
    assert not (dealt == rows["malignant"]).all()
    assert not (dealt == permute_labels(rows, 1)).all()


def test_a_row_is_predicted_by_a_model_that_has_not_seen_it() -> None:
    """Each row is the only one of its fold with its own feature; a model that had seen it would be right."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 60)
    features = np.eye(60, dtype=np.float32)
    p = out_of_fold(features, labels, np.arange(60) % 6, 6, 0)
    assert np.all((p > 0.5) == (p[0] > 0.5))  # nothing but the prevalence of the training folds


def test_leaking_folds_inflate_the_auroc() -> None:
    rows, features = recognisable()
    table = compare(rows, features, folds=4, seed=0, draws=2)
    mean = table.groupby(["labels", "kept_together"])["auroc"].mean()
    for labels in (DATASET_LABELS, RANDOM_LABELS):  # neither says anything of the features
        assert 0.3 < mean[labels, PATIENT] < 0.7
        assert mean[labels, BAG] > 0.7
        assert mean[labels, SLICE] > 0.95
    assert (table["auroc_low"] <= table["auroc"]).all()
    assert (table["n_patients"] == PATIENTS).all()


def test_a_real_signal_shows_with_folds_by_patient() -> None:
    rows, features = recognisable(signal=8.0)
    mean = compare(rows, features, folds=4, seed=0, draws=1).set_index(["labels", "kept_together"])["auroc"]
    assert mean[DATASET_LABELS, PATIENT] > 0.9
    assert 0.3 < mean[RANDOM_LABELS, PATIENT] < 0.7


def test_folds_by_bag_are_omitted_with_one_bag_per_patient() -> None:
    rows, features = recognisable()
    table = compare(rows.assign(bag_id=rows["patient_id"]), features, folds=4, seed=0, draws=1)
    assert set(table["kept_together"]) == {PATIENT, SLICE}


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (["p0", "p2", "p1", "p3", "p5"], r"2 patients with only benign nodules are too few .*split\.folds=2"),
        (["p0", "p2", "p4", "p1"], "1 patients with malignant nodules are too few .*more patients"),
        (["p0", "p2", "p4"], "0 patients with malignant nodules are too few .*more patients"),
    ],
)
def test_too_few_patients_of_a_class_for_the_folds(kept: list[str], message: str) -> None:
    rows, features = recognisable()
    few = rows["patient_id"].isin(kept).to_numpy()
    with pytest.raises(LungtlError, match=message):
        compare(rows[few].reset_index(drop=True), features[few], folds=3, seed=0, draws=1)


def test_a_fold_with_one_training_class_is_refused() -> None:
    labels = np.array([1, 1, 0, 0, 0, 0])
    with pytest.raises(LungtlError, match=r"would be trained on one label only.*split\.seed"):
        out_of_fold(np.eye(6, dtype=np.float32), labels, np.array([0, 0, 1, 2, 3, 4]), 2, 0)


def test_differences_are_paired_by_draw() -> None:
    """Bag folds .01 above and .01 below, slice folds .05 and .07 above the patient folds of the same draw."""
    rows = [
        {"labels": labels, "kept_together": kept, "draw": draw, "auroc": 0.5 + 0.2 * draw + above[draw]}
        for labels in (DATASET_LABELS, RANDOM_LABELS)
        for kept, above in ((PATIENT, (0, 0)), (BAG, (0.01, -0.01)), (SLICE, (0.05, 0.07)))
        for draw in (0, 1)
    ]
    found = differences(pd.DataFrame(rows))
    assert found[["labels", "kept_together"]].to_numpy().tolist() == [
        [DATASET_LABELS, BAG], [DATASET_LABELS, SLICE], [RANDOM_LABELS, BAG], [RANDOM_LABELS, SLICE]
    ]  # fmt: skip
    expected = [[-0.01, 0, 0.01], [0.05, 0.06, 0.07]] * 2
    np.testing.assert_allclose(found[["min", "mean", "max"]].to_numpy(float), expected, atol=1e-12)
