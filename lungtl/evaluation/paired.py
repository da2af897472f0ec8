"""Compare two models' decisions on the same bags, and correct p-values for multiple comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.checks import check_labels, patient_codes
from lungtl.settings.errors import LungtlError


@dataclass(frozen=True)
class McNemar:
    """Where two models' decisions differ."""

    only_first_right: int  # bags that only the first model classifies correctly
    only_second_right: int
    p_value: float  # exact, two-sided, of no difference; 1 where the models are equally often right in every patient


def mcnemar(
    labels: ArrayLike, first_calls: ArrayLike, second_calls: ArrayLike, patient_ids: Iterable[object] | None = None
) -> McNemar:
    """Test whether one model's decisions are right more often than another's on the same bags.

    McNemar's exact test (Psychometrika 12 (1947) 153), with the patient as unit: under the null hypothesis, swapping
    the two models in all bags of a patient is equally likely. With one bag per patient it is the usual test. Calls are
    bool or int [N], 1 where a model calls a bag positive; without patient_ids every bag has its own patient.
    """
    y = check_labels(labels)
    calls = [check_labels(first_calls, "first calls"), check_labels(second_calls, "second calls")]
    for name, values in zip(("first", "second"), calls, strict=True):
        if len(values) != len(y):
            raise LungtlError(f"there are {len(values)} {name} calls for {len(y)} labels; expected one per label")
    patients = np.arange(len(y)) if patient_ids is None else patient_codes(patient_ids, len(y))
    gained = (calls[0] == y).astype(np.int64) - (calls[1] == y)
    leads = np.bincount(patients, gained).astype(np.int64)
    return McNemar(int((gained == 1).sum()), int((gained == -1).sum()), _sign_flip_p_value(leads[leads != 0]))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values by Holm's method (Scandinavian Journal of Statistics 6 (1979) 65), in the same order.

    An undefined p-value, None, stays None and is not counted as a comparison.
    """
    defined = [p for p in p_values if p is not None]
    if len(defined) < 2:
        return list(p_values)
    # imported here: it takes a second, and only reports need it
    from statsmodels.stats.multitest import multipletests  # type: ignore[import-untyped]

    adjusted = iter(multipletests(defined, method="holm")[1])
    return [None if p is None else float(next(adjusted)) for p in p_values]


def _sign_flip_p_value(leads: NDArray[np.int64]) -> float:
    """Probability of a total at least as far from 0 as that of `leads`, int64 [P], if their signs were random."""
    reach = int(np.abs(leads).sum())
    chance = np.zeros(2 * reach + 1)
    chance[reach] = 1.0  # before any flip the total is 0; index k is a total of k - reach
    for step in np.abs(leads):
        # No total exceeds the steps so far, so nothing wraps around.
        chance = (np.roll(chance, step) + np.roll(chance, -step)) / 2
    totals = np.abs(np.arange(-reach, reach + 1))
    return float(min(1.0, chance[totals >= abs(int(leads.sum()))].sum()))
