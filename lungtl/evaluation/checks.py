"""What labels, probabilities and patient ids must look like before anything is computed from them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.settings.errors import LungtlError


def check_labels(labels: ArrayLike, name: str = "labels") -> NDArray[np.int64]:
    """Return the labels as int64 [N].

    Raises:
        LungtlError: when there are none, they are not one-dimensional, or a value is neither 0 nor 1.
    """
    values = np.asarray(labels)
    if values.ndim != 1:
        raise LungtlError(f"{name} have shape {values.shape}; wanted one dimension, [N]")
    if values.size == 0:
        raise LungtlError(f"{name} are empty; nothing can be scored, so look at the split and at its filters")
    wrong = values[~np.isin(values, (0, 1))]
    if wrong.size:
        raise LungtlError(
            f"{name} hold {wrong[0]} ({wrong.size} of {values.size} are neither 0 nor 1); "
            "leave rows with an unknown label out and map the others to 0 or 1"
        )
    return values.astype(np.int64)


def check_probabilities(probabilities: ArrayLike, n: int) -> NDArray[np.float64]:
    """Return the probabilities as float64 [N].

    Args:
        probabilities: [N], of the positive class.
        n: the number of labels they must match.

    Raises:
        LungtlError: on another length, NaN, or a value outside [0, 1].
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (n,):
        raise LungtlError(f"probabilities have shape {values.shape}, labels ({n},); wanted one a label")
    missing = int(np.isnan(values).sum())
    if missing:
        raise LungtlError(f"{missing} of {n} probabilities are NaN; look for a diverged loss or an empty bag")
    outside = values[(values < 0) | (values > 1)]
    if outside.size:
        raise LungtlError(
            f"probabilities hold {outside[0]:g} ({outside.size} of {n} lie outside [0, 1]); "
            "apply the sigmoid to logits first"
        )
    return values


def check_threshold(threshold: float) -> float:
    """Return the threshold.

    Raises:
        LungtlError: when it is NaN or outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise LungtlError(f"threshold is {threshold}; wanted a probability in [0, 1]")
    return float(threshold)


def patient_codes(patient_ids: Iterable[object], n: int) -> NDArray[np.int64]:
    """Give each patient a number 0..P-1 by its id, so that the order of the rows does not matter.

    Args:
        patient_ids: one id a row.
        n: the number of labels they must match.

    Returns:
        int64 [N].

    Raises:
        LungtlError: on another length, or an id that is None, NaN or empty.
    """
    ids = list(patient_ids)
    if len(ids) != n:
        raise LungtlError(f"there are {len(ids)} patient ids for {n} labels; wanted one a row")
    for row, identity in enumerate(ids):
        # A missing id would silently become one large patient; NaN is the only value unequal to itself.
        if identity is None or identity != identity or identity == "":
            raise LungtlError(f"patient id of row {row} is {identity!r}; give each row the id of its patient")
    codes = np.unique(np.array([str(identity) for identity in ids]), return_inverse=True)[1]
    return codes.astype(np.int64)
