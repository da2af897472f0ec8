"""Timings as ratios between things measured by turns in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from lungtl.settings.allocator import keep_freed_memory, set_thresholds

REPEATS = 5
GLIBC_OWN = (2**25, 2**26)
"""What glibc arrives at by itself once large blocks were freed: 32 MiB, and twice that."""
Row = dict[str, str]
Measure = Callable[[], float]
"""Does its work and returns the seconds that count."""


def stopwatch(work: Callable[[], object]) -> Measure:
    """All seconds of a piece of work count."""

    def measure() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return measure


def giving_memory_back(measure: Measure) -> Measure:
    """The same with the allocator as lungtl finds it (see `lungtl.settings.allocator`)."""

    def measured() -> float:
        set_thresholds(*GLIBC_OWN)
        try:
            return measure()
        finally:
            keep_freed_memory()

    return measured


def as_torch_is(measure: Measure) -> Measure:
    """The same with torch's own settings, and cuDNN's search for the fastest kernels, which timm's benchmark turns on.

    Lightning's `deterministic=True` holds for the rest of the process.
    """

    def measured() -> float:
        import torch

        deterministic, search = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        cudnn = torch.backends.cudnn.deterministic
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
        try:
            return measure()
        finally:
            torch.use_deterministic_algorithms(deterministic)
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn, search

    return measured


def by_turns(*measures: Measure, repeats: int = REPEATS) -> list[float]:
    """Median seconds of each, taken by turns, so that what disturbs the machine disturbs them alike.

    Each runs once before it counts.
    """
    seconds = [[measure() for measure in measures] for _ in range(repeats + 1)]
    return [statistics.median(own) for own in zip(*seconds[1:], strict=True)]


def compared(what: str, seconds: float, against: str, against_seconds: float, wanted: float | None = None) -> Row:
    """A row: ratio > 1 means that `what` is that many times faster; `wanted`: the least that it should be."""
    return {
        "what": what, "seconds": f"{seconds:.4f}", "against": against, "against_seconds": f"{against_seconds:.4f}",
        "ratio": f"{against_seconds / seconds:.2f}", "wanted": "" if wanted is None else f"{wanted:g}",
    }  # fmt: skip
