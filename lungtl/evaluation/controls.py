"""Trivial predictors, fitted on train and scored like the model: what a network has to beat.

On LIDC-IDRI a nodule's diameter alone ranks malignancy with an AUC above .9; no result stands without it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.errors import LungtlError
from lungtl.evaluation.checks import check_labels

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def prevalence_control(train_labels: ArrayLike, n: int) -> NDArray[np.float64]:
    """Predict the share of positives of the training bags for everything.

    Args:
        train_labels: int, 0 or 1.
        n: how many bags to predict.

    Returns:
        float64 [n].

    Raises:
        LungtlError: when the labels are empty or not 0 and 1.
    """
    return np.full(n, check_labels(train_labels, "train labels").mean())


def diameter_control(
    train_diameter_mm: ArrayLike, train_labels: ArrayLike, diameter_mm: ArrayLike
) -> NDArray[np.float64]:
    """Predict from the nodule's diameter alone: logistic regression on standardised log(1 + mm).

    Monotone in the diameter: where larger means likelier malignant on train, its AUROC is the diameter's own.

    Args:
        train_diameter_mm: [T], mm; 0 where a bag has no nodule.
        train_labels: int [T], 0 or 1.
        diameter_mm: [n], mm, of the bags to predict.

    Returns:
        float64 [n], the probability of the positive class.

    Raises:
        LungtlError: when a diameter is NaN, infinite or negative, the lengths differ, or train has one class.
    """
    labels = check_labels(train_labels, "train labels")
    train = _check_diameters(train_diameter_mm, "train diameters")
    test = _check_diameters(diameter_mm, "diameters")
    if len(train) != len(labels):
        raise LungtlError(f"there are {len(train)} train diameters, {len(labels)} labels; wanted one a label")
    if labels.min() == labels.max():
        raise LungtlError(
            f"all {len(labels)} train labels are {labels[0]}; the diameter control needs both classes, "
            "so use a larger training split or leave it out"
        )
    from sklearn.linear_model import LogisticRegression

    centre = np.log1p(train).mean()
    spread = np.log1p(train).std() or 1.0
    model: Any = LogisticRegression()
    model.fit(((np.log1p(train) - centre) / spread)[:, None], labels)
    probabilities = model.predict_proba(((np.log1p(test) - centre) / spread)[:, None])[:, 1]
    return np.asarray(probabilities, dtype=np.float64)


def control_probabilities(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Fit every control that the data allow on `train` and predict `test`.

    Args:
        train: one row a bag with the columns label (0 or 1) and diameter_mm (NaN where unknown).
        test: likewise; its labels are not read.

    Returns:
        "prevalence" and, unless a diameter is unknown on either side or train has one class, "diameter", each
        float64 [len(test)]. What was left out is logged.

    Raises:
        LungtlError: when the train labels are empty or not 0 and 1.
    """
    controls = {"prevalence": prevalence_control(train["label"].to_numpy(), len(test))}
    unknown = int(train["diameter_mm"].isna().sum() + test["diameter_mm"].isna().sum())
    if unknown:
        log.info("no diameter control: unknown diameter of %d of %d bags", unknown, len(train) + len(test))
    elif train["label"].nunique() == 1:
        log.info("no diameter control: all %d train labels are %s", len(train), train["label"].iloc[0])
    else:
        controls["diameter"] = diameter_control(
            train["diameter_mm"].to_numpy(), train["label"].to_numpy(), test["diameter_mm"].to_numpy()
        )
    return controls


def _check_diameters(diameter_mm: ArrayLike, name: str) -> NDArray[np.float64]:
    values = np.asarray(diameter_mm, dtype=np.float64)
    if values.ndim != 1:
        raise LungtlError(f"{name} have shape {values.shape}; wanted one dimension")
    wrong = values[~(np.isfinite(values) & (values >= 0))]
    if wrong.size:
        raise LungtlError(
            f"{name} hold {wrong[0]:g} ({wrong.size} of {values.size}); wanted mm, 0 without a nodule; "
            "leave the diameter control out where diameters are unknown"
        )
    return values
