"""The search space, written as Hydra sweeps and converted to Optuna distributions.

head.width: 64,128,256                       a choice
freezing.n: int(interval(1, 6))              an integer, both ends included
optimizer.lr: tag(log, interval(1e-5, 1e-2)) a number, uniform on a logarithmic scale
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lungtl.settings.errors import UsageError

OBJECTIVE = "trainer.monitor"


@dataclass(frozen=True)
class Space:
    """The settings of a search."""

    distributions: dict[str, BaseDistribution]  # key -> the values that Optuna may choose
    fixed: tuple[str, ...]  # overrides that all trials share
    texts: dict[str, str]  # key -> its values as the user wrote them

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The command line of a trial with these values."""
        return [*self.fixed, *(f"{key}={text}" for key, text in self.format(values).items())]

    def format(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Values as trained: numbers with four significant digits, as in the run's name; missing values are empty."""
        texts = {key: values.get(key, "") for key in self.distributions}
        return {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in texts.items()}

    def corners(self) -> list[list[str]]:
        """Command lines that together contain each choice and both ends of each interval."""
        ends = {key: _ends(distribution) for key, distribution in self.distributions.items()}
        first = {key: values[0] for key, values in ends.items()}
        rest = [{**first, key: value} for key, values in ends.items() for value in values[1:]]
        return [self.overrides(values) for values in (first, *rest)]


def read_space(overrides: Iterable[Override]) -> Space:
    """Separate searched from fixed settings; the last override of a key wins.

    Raises:
        UsageError: nothing is searched, or a key cannot be.
    """
    last = {str(override.get_key_element()): override for override in overrides}
    searched = {key: override for key, override in last.items() if override.is_sweep_override()}
    fixed = tuple(
        f"{key}={override.get_value_element_as_str()}" for key, override in last.items() if key not in searched
    )
    if not searched:
        raise UsageError(
            "hydra/sweeper=optuna: nothing to search; give hydra/sweeper/params=head, or key=value1,value2 or "
            "'key=interval(low,high)'"
        )
    if OBJECTIVE in searched:
        raise UsageError(f"{OBJECTIVE} is what a search optimises; give it one value")
    texts = {key: str(override.input_line).partition("=")[2] for key, override in searched.items()}
    return Space({key: _distribution(key, override) for key, override in searched.items()}, fixed, texts)


def _distribution(key: str, override: Override) -> BaseDistribution:
    sweep: Any = override.value()
    tags = set(getattr(sweep, "tags", ()))
    log = "log" in tags
    if tags - {"log"} or (log and not isinstance(sweep, IntervalSweep)):
        raise UsageError(f"{override.input_line}: the only tag is log, of an interval; write tag(log, interval(a, b))")
    if not isinstance(sweep, IntervalSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    assert sweep.start is not None
    assert sweep.end is not None
    try:
        if isinstance(sweep.start, int) and isinstance(sweep.end, int):
            return IntDistribution(sweep.start, sweep.end, log=log)
        return FloatDistribution(sweep.start, sweep.end, log=log)
    except ValueError as error:
        raise UsageError(f"{key}: {error}; write interval(low, high), both above 0 with tag(log, ...)") from error


def _ends(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]
