"""Two models' decisions on the same bags, and p-values of several comparisons at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.checks import check_labels, patient_codes
from lungtl.settings.errors import LungtlError


@dataclass(frozen=True)
class McNemar:
    """Where two models' decisions differ.

    Attributes:
        only_first_right: bags that the first model alone calls right.
        only_second_right: bags that the second model alone calls right.
        p_value: exact, two-sided, of no difference; 1 where no patient tells them apart.
    """

    only_first_right: int
    only_second_right: int
    p_value: float


def mcnemar(
    labels: ArrayLike,
    first_calls: ArrayLike,
    second_calls: ArrayLike,
    patient_ids: Iterable[object] | None = None,
) -> McNemar:
    """Test whether one model's decisions are right more often than another's on the same bags.

    McNemar's exact test (Psychometrika 12 (1947) 153). If the models were alike, which of them is right where they
    differ would be a toss of a coin; with `patient_ids` it is one toss a patient, which swaps the models in all of
    the patient's bags at once, since those are correlated. Both are exact, and the same with one bag a patient.

    Args:
        labels: int [N], 0 or 1.
        first_calls: bool or int [N], 1 where the first model calls a bag positive.
        second_calls: likewise, the second model's.
        patient_ids: one id a row; None where every bag is another patient's.

    Returns:
        The counts of bags, and the p-value.

    Raises:
        LungtlError: on labels or calls other than 0 and 1, unequal lengths, no row, or a missing patient id.
    """
    y = check_labels(labels)
    calls = [check_labels(first_calls, "first calls"), check_labels(second_calls, "second calls")]
    for name, values in zip(("first", "second"), calls, strict=True):
        if len(values) != len(y):
            raise LungtlError(f"there are {len(values)} {name} calls for {len(y)} labels; wanted one a label")
    patients = np.arange(len(y)) if patient_ids is None else patient_codes(patient_ids, len(y))
    gained = (calls[0] == y).astype(np.int64) - (calls[1] == y)
    of_patients = np.bincount(patients, gained).astype(np.int64)
    return McNemar(int((gained == 1).sum()), int((gained == -1).sum()), _p_of_tosses(of_patients[of_patients != 0]))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust the p-values of several comparisons by Holm's method (Scandinavian Journal of Statistics 6 (1979) 65).

    Rejecting where the adjusted value is below 0.05 makes any false rejection at all at most 5 % likely, however the
    comparisons depend on each other.

    Args:
        p_values: in [0, 1]; None where a comparison is undefined. Those do not count as comparisons.

    Returns:
        The adjusted values, at most 1, in the same order; None stays None.

    Raises:
        LungtlError: when a p-value is NaN or outside [0, 1].
    """
    wrong = [p for p in p_values if p is not None and not 0 <= p <= 1]
    if wrong:
        raise LungtlError(f"p-values hold {wrong[0]}; wanted numbers in [0, 1], None where undefined")
    adjusted: list[float | None] = [None] * len(p_values)
    ascending = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for rank, (p, place) in enumerate(ascending):
        largest = max(largest, min(1.0, p * (len(ascending) - rank)))
        adjusted[place] = largest
    return adjusted


def _p_of_tosses(lead: NDArray[np.int64]) -> float:
    """Give the probability of a total lead as far from 0 as this one, if each sign were tossed.

    Args:
        lead: int64 [P], by how many bags the first model leads in a patient.
    """
    reach = int(np.abs(lead).sum())
    chance = np.zeros(2 * reach + 1)
    chance[reach] = 1.0  # of a total of 0 before any toss; place k is a total of k - reach
    for step in np.abs(lead):
        # No total exceeds what was tossed so far, so nothing is rolled over the ends.
        chance = (np.roll(chance, step) + np.roll(chance, -step)) / 2
    totals = np.abs(np.arange(-reach, reach + 1))
    return float(min(1.0, chance[totals >= abs(int(lead.sum()))].sum()))
