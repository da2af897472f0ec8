"""What cross-validation claims when its folds separate what belongs together. For `lungtl.leak_demo` alone.

Nothing else may use these folds: `lungtl.data.splits` splits by patient and refuses everything else.
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
GIVEN, LOTS = "the dataset's labels", "labels drawn by lot"
PATIENT, BAG, SLICE = "patient", "bag", "slice"
"""What the folds never separate; the first is right, the others leak."""


def compare(rows: pd.DataFrame, features: Floats, folds: int, seed: int, draws: int) -> pd.DataFrame:
    """Cross-validate with folds that keep patients, bags or only slices together.

    Args:
        rows: bag_id, patient_id, malignant (0 or 1), one a slice.
        features: float [N, D].
        folds: how many.
        seed: of the first draw; the others count up from it.
        draws: of the folds, and of the lots.

    Returns:
        labels, kept_together, draw, n, n_patients, n_positive, auroc, auroc_low, auroc_high (of the pooled out-of-fold
        predictions, the interval by bootstrap over patients). `bag` is left out where every patient has one.

    Raises:
        LungtlError: there are fewer patients of a class than folds, or folds that are trained on one class.
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
        for labels, y in ((GIVEN, rows["malignant"].to_numpy()), (LOTS, lots(rows, seed + draw))):
            for kept, group in groups.items():
                p = out_of_fold(features, y, fold_numbers(y, group, folds, seed + draw))
                scores = score(y, p, rows["patient_id"])
                auroc = scores.metrics["auroc"]
                table.append({
                    "labels": labels, "kept_together": kept, "draw": draw, "n": scores.n,
                    "n_patients": scores.n_patients, "n_positive": scores.n_positive,
                    "auroc": auroc.value, "auroc_low": auroc.low, "auroc_high": auroc.high,
                })  # fmt: skip
                log.info("%s, folds by %s, draw %d: AUROC %.3f", labels, kept, draw, auroc.value)
    return pd.DataFrame(table)


def lots(rows: pd.DataFrame, seed: int) -> NDArray[np.int64]:
    """The patients' labels dealt out anew, int64 [N]: all slices of a patient get that of another."""
    patients = rows.groupby("patient_id")["malignant"].max()
    dealt = dict(zip(patients.index, np.random.default_rng(seed).permutation(patients.to_numpy()), strict=True))
    return rows["patient_id"].map(dealt).to_numpy(np.int64)


def fold_numbers(labels: NDArray[np.int64], groups: NDArray[Any], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row, int64 [N]; a group is never separated, classes are spread evenly.

    Raises:
        LungtlError: all of one class is in one fold, so that the model which is tested on it has seen none.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    numbers = np.zeros(len(labels), dtype=np.int64)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for number, (trained, tested) in enumerate(splitter.split(labels, labels, groups)):
        numbers[tested] = number
        classes = np.unique(labels[trained])
        if len(classes) < 2:
            raise LungtlError(
                f"fold {number} of {folds} would be trained on labels {classes[0]} alone; "
                "give another split.seed, lower split.folds or more patients"
            )
    return numbers


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """What each kind of leaking folds says above folds that keep patients together, draw by draw.

    Args:
        table: of `compare`.

    Returns:
        labels, kept_together (bag, slice), min, mean, max: of the draws' differences in AUROC.
    """
    right = table["kept_together"] == PATIENT
    paired = table[~right].merge(table[right], on=["labels", "draw"], suffixes=("", "_right"), validate="many_to_one")
    paired["above"] = paired["auroc"] - paired["auroc_right"]
    named = paired.groupby(["labels", "kept_together"], sort=False)["above"].agg(["min", "mean", "max"])
    return named.reset_index()


def out_of_fold(features: Floats, labels: NDArray[np.int64], folds: NDArray[np.int64]) -> NDArray[np.float64]:
    """The probability of each row by the model of the other folds: float64 [N]."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    p = np.zeros(len(labels))
    for fold in np.unique(folds):
        tested = folds == fold
        model: Any = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        p[tested] = model.fit(features[~tested], labels[~tested]).predict_proba(features[tested])[:, 1]
    return p


def _check_patients(rows: pd.DataFrame, folds: int) -> None:
    """Every fold needs a patient of either class; labels by lot are dealt to patients, malignant if any slice is."""
    malignant = rows.groupby("patient_id")["malignant"].max()
    for name, count in (("malignant", int(malignant.sum())), ("only benign", int((1 - malignant).sum()))):
        if count < folds:
            remedy = f"give split.folds={count}" if count > 1 else "take a dataset with more patients"
            raise LungtlError(f"{count} patients with {name} nodules are too few for {folds} folds; {remedy}")
