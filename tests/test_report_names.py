from __future__ import annotations

from lungtl.report import differing


def test_runs_are_told_apart_by_what_differs() -> None:
    names = ["phantom resnet18 frozen max seed=0", "phantom resnet18 frozen max seed=1"]
    assert differing(names) == ["seed=0", "seed=1"]


def test_a_single_run_and_equal_runs_keep_their_name() -> None:
    assert differing(["phantom max"]) == ["phantom max"]
    assert differing(["phantom max", "phantom max"]) == ["phantom max", "phantom max"]
