"""How much a result varies from seed to seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lungtl.settings.errors import LungtlError


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds of an experiment.

    Attributes:
        n: seeds.
        mean: over the seeds.
        sd: standard deviation between seeds (n - 1); None for one seed.
        low: lower end of the 95 % t-interval of the mean; None for one seed.
        high: upper end.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None


def summarise(values: Iterable[float]) -> Spread:
    """Summarise one metric over the seeds of an experiment.

    The t-interval is of the mean over ALL seeds on the test bags at hand; how much other bags would change it is not
    in it.

    Args:
        values: one finite number a seed.

    Returns:
        The spread.

    Raises:
        LungtlError: when there is no value, or one is not finite.
    """
    from scipy.special import stdtrit

    seeds = np.array(list(values), dtype=np.float64)
    if not len(seeds):
        raise LungtlError("there are no values to summarise; wanted one a seed")
    wrong = seeds[~np.isfinite(seeds)]
    if wrong.size:
        raise LungtlError(f"values hold {wrong[0]} ({wrong.size} of {len(seeds)}); leave out seeds without a value")
    mean = float(seeds.mean())
    if len(seeds) == 1:
        return Spread(1, mean)
    sd = float(seeds.std(ddof=1))
    half = float(stdtrit(len(seeds) - 1, 0.975)) * sd / np.sqrt(len(seeds))
    return Spread(len(seeds), mean, sd, float(mean - half), float(mean + half))
