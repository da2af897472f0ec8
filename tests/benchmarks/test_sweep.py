from __future__ import annotations

import pkgutil

import pytest

from benchmarks import sweep


@pytest.mark.parametrize("name", [name for functions in sweep.PARTS.values() for name in functions])
def test_the_parts_of_a_job_are_functions_of_lungtl(name: str) -> None:
    assert callable(pkgutil.resolve_name(name))


def test_a_part_is_timed_even_where_it_fails() -> None:
    seconds = {"part": 1.0}

    def fails(value: int, *, by: int) -> float:
        return value / by

    watched = sweep._watched(fails, "part", seconds)
    assert watched(3, by=2) == 1.5
    once = seconds["part"]
    with pytest.raises(ZeroDivisionError):
        watched(3, by=0)
    assert 1 < once < seconds["part"]
