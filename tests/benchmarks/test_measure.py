from __future__ import annotations

import time
from itertools import count

import pytest

from benchmarks.measure import by_turns, compared, stopwatch


def test_medians_of_turns_without_the_first() -> None:
    calls = []
    slow, quick = iter([100.0, 5.0, 9.0, 1.0]), iter([100.0, 0.5, 0.25, 7.0])

    def measured(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds

    assert by_turns(lambda: measured("slow", next(slow)), lambda: measured("quick", next(quick)), repeats=3) == [5, 0.5]
    assert calls == ["slow", "quick"] * 4


def test_the_stopwatch_gives_the_seconds_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(10.0, 2.5)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert stopwatch(lambda: None)() == 2.5


def test_a_ratio_above_one_is_faster() -> None:
    row = compared("this", 0.5, "that", 2.0)
    assert row == {"what": "this", "seconds": "0.5000", "against": "that", "against_seconds": "2.0000", "ratio": "4.00"}
