"""Cross-validation with folds that do not keep patients together, to show how much that inflates the AUROC.

For `lungtl.leak_demo` alone: `lungtl.data.splits` splits by patient and refuses everything else. The command imports
this module at its start, so pandas and scikit-learn are imported in functions.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
Floats = NDArray[np.float32]
DATASET_LABELS, RANDOM_LABELS = "the dataset's labels", "random labels"
PATIENT, BAG, SLICE = "patient", "bag", "slice"
"""What the folds keep together; only folds by patient are valid, the others leak."""


def compare(rows: pd.DataFrame, features: Floats, folds: int, seed: int, draws: int) -> pd.DataFrame:
    """Cross-validate with folds that keep patients, bags or only slices together.

    Args:
        rows: bag_id, patient_id, malignant (0 or 1), one per slice.
        features: float [N, D].
        folds: how many.
        seed: of the first draw; the others count up from it.
        draws: of the folds, and of the random labels.

    Returns:
        labels, kept_together, draw, n, n_patients, n_positive, auroc, auroc_low, auroc_high (of the pooled out-of-fold
        predictions, the interval by bootstrap over patients). Folds by bag are omitted where every patient has one.
    """
    import pandas as pd

    from lungtl.evaluation.metrics import score

    _check_patients(rows, folds)
    groups: dict[str, NDArray[Any]]
    groups = {PATIENT: rows["patient_id"].to_numpy(), BAG: rows["bag_id"].to_numpy(), SLICE: np.arange(len(rows))}
    if rows["bag_id"].nunique() == rows["patient_id"].nunique():
        del groups[BAG]
    table = []
    for draw in range(draws):
        permuted = permute_labels(rows, seed + draw)
        for labels, y in ((DATASET_LABELS, rows["malignant"].to_numpy()), (RANDOM_LABELS, permuted)):
            for together, group in groups.items():
                p = out_of_fold(features, y, group, folds, seed + draw)
                scores = score(y, p, rows["patient_id"])
                auroc = scores.metrics["auroc"]
                table.append({
                    "labels": labels, "kept_together": together, "draw": draw, "n": scores.n,
                    "n_patients": scores.n_patients, "n_positive": scores.n_positive,
                    "auroc": auroc.value, "auroc_low": auroc.low, "auroc_high": auroc.high,
                })  # fmt: skip
                unit = "nodule or scan" if together == BAG else together
                log.info("%s, folds by %s, draw %d: AUROC %.3f", labels, unit, draw, auroc.value)
    return pd.DataFrame(table)


def permute_labels(rows: pd.DataFrame, seed: int) -> NDArray[np.int64]:
    """Permute labels between patients, int64 [N]: all slices of a patient get the label of another patient."""
    patients = rows.groupby("patient_id")["malignant"].max()
    permuted = dict(zip(patients.index, np.random.default_rng(seed).permutation(patients.to_numpy()), strict=True))
    return rows["patient_id"].map(permuted).to_numpy(np.int64)


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """By how much each kind of leaking folds exceeds folds by patient: min, mean and max over the draws.

    Given the table of `compare`, returns labels, kept_together (bag, slice), min, mean, max.
    """
    valid = table["kept_together"] == PATIENT
    paired = table[~valid].merge(table[valid], on=["labels", "draw"], suffixes=("", "_valid"), validate="many_to_one")
    paired["excess"] = paired["auroc"] - paired["auroc_valid"]
    grouped = paired.groupby(["labels", "kept_together"], sort=False)["excess"].agg(["min", "mean", "max"])
    return grouped.reset_index()


def out_of_fold(
    features: Floats, labels: NDArray[np.int64], groups: NDArray[Any], folds: int, seed: int
) -> NDArray[np.float64]:
    """Probability of each row by the model trained on the other folds: float64 [N].

    Groups stay together, classes are spread evenly.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    if any(len(np.unique(labels[train])) < 2 for train, _ in splitter.split(labels, labels, groups)):
        raise LungtlError(
            f"one of {folds} folds would be trained on one label only; use another split.seed, fewer split.folds or "
            "more patients"
        )
    p = cross_val_predict(model, features, labels, groups=groups, cv=splitter, method="predict_proba")
    return np.asarray(p[:, 1], np.float64)


def _check_patients(rows: pd.DataFrame, folds: int) -> None:
    """Every fold needs a patient of either class; a patient is malignant if any slice is."""
    malignant = rows.groupby("patient_id")["malignant"].max()
    for name, count in (("malignant", int(malignant.sum())), ("only benign", int((1 - malignant).sum()))):
        if count < folds:
            remedy = f"use split.folds={count}" if count > 1 else "use a dataset with more patients"
            raise LungtlError(f"{count} patients with {name} nodules are too few for {folds} folds; {remedy}")
