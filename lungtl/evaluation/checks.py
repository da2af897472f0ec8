"""Validation of labels, probabilities, thresholds and patient ids; what is wrong raises a LungtlError."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.settings.errors import LungtlError


def check_labels(labels: ArrayLike, name: str = "labels") -> NDArray[np.int64]:
    """Return at least one label, each 0 or 1, as int64 [N]."""
    values = np.asarray(labels)
    if values.ndim != 1:
        raise LungtlError(f"{name} have shape {values.shape}; expected one dimension, [N]")
    if values.size == 0:
        raise LungtlError(f"{name} are empty, so nothing can be scored; check the split and its filters")
    wrong = values[~np.isin(values, (0, 1))]
    if wrong.size:
        raise LungtlError(
            f"{name} contain {wrong[0]} ({wrong.size} of {values.size} are neither 0 nor 1); "
            "omit rows with an unknown label and map the others to 0 or 1"
        )
    return values.astype(np.int64)


def check_probabilities(probabilities: ArrayLike, n: int) -> NDArray[np.float64]:
    """Return the n probabilities of the positive class as float64 [n]."""
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (n,):
        raise LungtlError(f"probabilities have shape {values.shape}, labels ({n},); expected one per label")
    missing = int(np.isnan(values).sum())
    if missing:
        raise LungtlError(f"{missing} of {n} probabilities are NaN; check for a diverged loss or an empty scan")
    outside = values[(values < 0) | (values > 1)]
    if outside.size:
        raise LungtlError(
            f"probabilities contain {outside[0]:g} ({outside.size} of {n} are outside [0, 1]); "
            "apply the sigmoid to logits first"
        )
    return values


def check_threshold(threshold: float) -> float:
    """Return a threshold in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise LungtlError(f"threshold is {threshold}; expected a probability in [0, 1]")
    return float(threshold)


def check_rows(
    labels: ArrayLike, probabilities: ArrayLike, patient_ids: Iterable[object]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Return labels int64 [N], probabilities float64 [N] and `patient_codes` int64 [N]."""
    y = check_labels(labels)
    return y, check_probabilities(probabilities, len(y)), patient_codes(patient_ids, len(y))


def patient_codes(patient_ids: Iterable[object], n: int) -> NDArray[np.int64]:
    """Number the patients of n rows 0..P-1 in the order of their ids, so that the order of rows does not matter."""
    ids = list(patient_ids)
    if len(ids) != n:
        raise LungtlError(f"there are {len(ids)} patient ids for {n} labels; expected one per row")
    for row, patient_id in enumerate(ids):
        # A missing id would silently become one large patient; NaN is the only value unequal to itself.
        if patient_id is None or patient_id != patient_id or patient_id == "":
            raise LungtlError(f"patient id of row {row} is {patient_id!r}; every row needs the id of its patient")
    codes = np.unique(np.array([str(patient_id) for patient_id in ids]), return_inverse=True)[1]
    return codes.astype(np.int64)


def one_class(labels: NDArray[np.int64], rows: str = "") -> str:
    """Why nothing is defined for labels of a single class."""
    return f"only one class: {int(labels.sum())} of {len(labels)} {rows}positive"
