"""Timings as ratios between alternating measurements in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from lungtl.settings.allocator import keep_freed_memory, set_thresholds

REPEATS = 5
GLIBC_OWN = (2**25, 2**26)
"""glibc's own thresholds after large blocks were freed: 32 MiB, and twice that."""
Row = dict[str, str]
Measure = Callable[[], float]
"""Does some work and returns the seconds to report."""


def stopwatch(work: Callable[[], object]) -> Measure:
    """Measure all seconds of a piece of work."""

    def measure() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return measure


def with_default_allocator(measure: Measure) -> Measure:
    """Measure with glibc's default allocator settings (see `lungtl.settings.allocator`)."""

    def measured() -> float:
        set_thresholds(*GLIBC_OWN)
        try:
            return measure()
        finally:
            keep_freed_memory()

    return measured


def with_torch_defaults(measure: Measure) -> Measure:
    """Measure with torch's default settings, plus cuDNN's kernel search, which timm's benchmark enables.

    Otherwise Lightning's `deterministic=True` would apply to the rest of the process.
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


def alternate(*measures: Measure, repeats: int = REPEATS) -> list[float]:
    """Median seconds of each; alternating, so that disturbances of the machine affect all alike.

    The first round is a warm-up.
    """
    seconds = [[measure() for measure in measures] for _ in range(repeats + 1)]
    return [statistics.median(own) for own in zip(*seconds[1:], strict=True)]


def compared(what: str, seconds: float, against: str, against_seconds: float, target: float | None = None) -> Row:
    """A row of a table: `what` is `ratio` times faster than `against`; `target` is the lowest acceptable ratio."""
    return {
        "what": what, "seconds": f"{seconds:.4f}", "against": against, "against_seconds": f"{against_seconds:.4f}",
        "ratio": f"{against_seconds / seconds:.2f}", "target": "" if target is None else f"{target:g}",
    }  # fmt: skip
