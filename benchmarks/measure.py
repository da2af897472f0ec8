"""Timings as ratios between two things in one run."""

from __future__ import annotations

import time
from collections.abc import Callable

REPEATS = 3
Row = dict[str, str]


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few repeats: the one least disturbed."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def compared(what: str, seconds: float, against: str, against_seconds: float) -> Row:
    """A row: ratio > 1 means that `what` is that many times faster."""
    return {
        "what": what, "seconds": f"{seconds:.3f}", "against": against, "against_seconds": f"{against_seconds:.3f}",
        "ratio": f"{against_seconds / seconds:.2f}",
    }  # fmt: skip
