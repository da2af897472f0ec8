"""A number with its 95 % interval: one type, in memory and in metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Of every part of metrics.json: no unknown keys, no NaN, no infinity."""

Probability = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class Estimate:
    """A number with its 95 % interval."""

    value: float | None  # None where undefined
    low: float | None = None  # None where there is no interval
    high: float | None = None
    undefined: str | None = None  # why the value, or only the interval, is missing; None when nothing is
    # standard deviation between seeds or pairs of runs, where `value` is a mean over several; not in metrics.json
    sd: float | None = Field(default=None, exclude=True)

    @model_validator(mode="after")
    def _complete_or_explained(self) -> Estimate:
        complete = None not in (self.value, self.low, self.high)
        if complete == bool(self.undefined):
            raise ValueError("an estimate has a value and an interval, or a reason why not")
        if (self.low is None) != (self.high is None) or (self.value is None and self.low is not None):
            raise ValueError("an interval has two ends and a value")
        return self


@dataclass(frozen=True, config=STRICT)
class DelongAuroc(Estimate):
    """An AUROC with an analytic interval; there is no standard error where there is no interval."""

    standard_error: float | None = None


@dataclass(frozen=True, config=STRICT)
class Difference:
    """A metric of a first model minus that of a second one on the same cases."""

    difference: float | None  # None where undefined
    low: float | None = None  # of the 95 % interval; None where there is none
    high: float | None = None
    p_value: Probability | None = None  # two-sided, of no difference; None where undefined
    undefined: str | None = None  # why something is missing; None when nothing is

    @property
    def estimate(self) -> Estimate:
        """The difference with its interval."""
        reason = self.undefined if self.low is None else None
        return Estimate(self.difference, self.low, self.high, reason)


def mean_and_sd(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard deviation (n - 1) of at least one number; None instead of the latter for a single one."""
    numbers = np.asarray(values, dtype=np.float64)
    return float(numbers.mean()), float(numbers.std(ddof=1)) if len(numbers) > 1 else None
