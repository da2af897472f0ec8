from __future__ import annotations

import time
from itertools import count

import pytest
import torch

from benchmarks.measure import alternate, compared, stopwatch, with_torch_defaults


def test_medians_of_turns_without_the_first() -> None:
    calls = []
    slow, quick = iter([100.0, 5.0, 9.0, 1.0]), iter([100.0, 0.5, 0.25, 7.0])

    def measured(name: str, seconds: float) -> float:
        calls.append(name)
        return seconds

    assert alternate(lambda: measured("slow", next(slow)), lambda: measured("quick", next(quick)), repeats=3) == [
        5,
        0.5,
    ]
    assert calls == ["slow", "quick"] * 4


def test_the_stopwatch_gives_the_seconds_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(10.0, 2.5)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert stopwatch(lambda: None)() == 2.5


def test_a_ratio_above_one_is_faster() -> None:
    row = compared("this", 0.5, "that", 2.0)
    assert row == {"what": "this", "seconds": "0.5000", "against": "that", "against_seconds": "2.0000", "ratio": "4.00",
                   "target": ""}  # fmt: skip
    assert compared("this", 0.5, "that", 2.0, target=0.95)["target"] == "0.95"


def test_a_baseline_runs_with_torch_defaults_and_leaves_the_settings() -> None:
    torch.use_deterministic_algorithms(True)
    try:
        during = with_torch_defaults(lambda: float(torch.are_deterministic_algorithms_enabled()))()
        assert (during, torch.are_deterministic_algorithms_enabled()) == (0, True)
    finally:
        torch.use_deterministic_algorithms(False)
