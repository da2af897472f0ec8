"""A small part of `make fuzz`, and a check that it detects errors."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lungtl.sources.ct.series import find_series
from lungtl.sources.ct.volume import read_volume, resample_z
from tests.dicom_files import write_series
from tests.fuzz.confirm import confirm, read_everything
from tests.fuzz.mutate import write_mutated
from tests.fuzz.oddities import READ, REFUSED, read_as_expected, write_odd


@pytest.mark.filterwarnings("ignore:The pixel data is:UserWarning:pydicom")  # excess padding
def test_odd_series_are_read_exactly_or_refused(tmp_path: Path) -> None:
    drawn = Counter[str]()
    for seed in range(100):
        odd = write_odd(tmp_path / str(seed), seed)
        drawn.update(odd.names)
        read_as_expected(tmp_path / str(seed), odd)
    assert drawn.keys() == {oddity.__name__ for oddity in (*READ, *REFUSED)}


def test_the_check_of_odd_series_notices_a_wrong_reading(tmp_path: Path) -> None:
    odd = write_odd(tmp_path, 0)
    odd.refusals = ["of another kind"] if not odd.refusals else []
    with pytest.raises((AssertionError, ValueError)):
        read_as_expected(tmp_path, odd)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # damaged on purpose
@pytest.mark.parametrize(
    "first", [pytest.param(first, marks=pytest.mark.exhaustive if first >= 120 else ()) for first in range(0, 300, 30)]
)
def test_damaged_series_are_refused_or_right(tmp_path: Path, first: int) -> None:
    for seed in range(first, first + 30):
        write_mutated(tmp_path / str(seed), seed)
        read_everything(tmp_path / str(seed))


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for where in "ab":
        write_mutated(tmp_path / where, 7)
    a, b = ([p.read_bytes() for p in sorted((tmp_path / where).iterdir())] for where in "ab")
    assert a == b


def test_an_undamaged_series_gives_a_volume(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 2.5, 5])
    assert read_everything(tmp_path) == "volume"


@pytest.mark.parametrize("wrong", ["order", "hu", "position"])
def test_the_check_notices_a_wrong_volume(tmp_path: Path, wrong: str) -> None:
    write_series(tmp_path, [0, 2.5, 5])
    (series,), _ = find_series(tmp_path)
    volume = read_volume(series)
    bad = {
        "order": lambda: dataclasses.replace(volume, hu=volume.hu[::-1]),
        "hu": lambda: dataclasses.replace(volume, hu=volume.hu + np.int16(1)),
        "position": lambda: dataclasses.replace(volume, z_mm=volume.z_mm + 0.1),
    }[wrong]()
    with pytest.raises(AssertionError):
        confirm(series, bad, resample_z(bad))
