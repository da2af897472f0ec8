"""Values that are not Hounsfield units: stated by the header, or improbable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.sources.ct.prepare import prepare_series
from lungtl.sources.ct.units import hu_details, unit_warnings
from tests.dicom_files import UID, ramp, write_series
from tests.sources.ct.found import Z, only, reasons


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("Z_EFF", "Z_EFF"),
        ("MGML", "MGML"),
        ("OD", "OD"),
        ("HU_MOD", "HU_MOD"),
        ("DOE JOHN", "of an unknown code"),  # could be a name
    ],
)
def test_other_units(tmp_path: Path, code: str, shown: str) -> None:
    write_series(tmp_path / "bad", Z, edit=lambda k, d: setattr(d, "RescaleType", code if k == 2 else "HU"))
    assert reasons(tmp_path) == {UID: f"slice-002.dcm has RescaleType {shown}, expected HU"}


@pytest.mark.parametrize(("code", "recorded"), [(None, ""), ("", ""), ("HU", "HU"), ("hu ", "HU"), ("US", "US")])
def test_hounsfield_units(tmp_path: Path, code: str | None, recorded: str) -> None:
    write_series(tmp_path, Z, edit=lambda _, d: None if code is None else setattr(d, "RescaleType", code))
    volume, details = prepare_series(only(tmp_path))
    assert details["rescale_type"] == recorded
    assert volume.hu[0, 0, 0] == -1024
    assert bool(unit_warnings([{"bag_id": "a", **details, "hu_lowest": -1000}])) == (code == "US")


def test_values_of_a_sample() -> None:
    hu = np.full((3, 200, 100), -700, dtype=np.int16)
    hu[1] = np.arange(100)  # of 100 values, 94 is the highest that 5 % exceed
    hu[2, 0, 0] = -2000
    assert hu_details(hu) == {"hu_lowest": -2000, "hu_median": -700, "hu_high": 94}


def scan(bag_id: str = "a", lowest: float = -1024, median: float = -800, high: float = 60) -> dict[str, Any]:
    return {"bag_id": bag_id, "rescale_type": "", "hu_lowest": lowest, "hu_median": median, "hu_high": high}


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (scan(), []),
        (scan(lowest=-3024, high=3071), []),  # padding, metal
        (scan(high=20480), ["a: 5 % of a slice is above 20480 HU, more than tissue or metal"]),
        (scan(lowest=-32768, median=-9000), ["a: half of the voxels are below -9000 HU, less than air"]),
        (scan(lowest=0, median=224, high=1100), ["a: the lowest value is 0 HU, but a chest contains air (-1000)"]),
    ],
)
def test_improbable_values(one: dict[str, Any], said: list[str]) -> None:
    assert [text.partition(";")[0] for text in unit_warnings([one])] == said


def test_one_line_for_many_scans() -> None:
    (line,) = unit_warnings([scan("a"), scan("b", high=5000), scan("c", high=6000)])
    assert line.startswith("b: 5 % of a slice is above 5000 HU")
    assert line.endswith("(2 such scans)")


def test_intercept_that_was_forgotten(tmp_path: Path) -> None:
    write_series(tmp_path, Z, ramp(4), intercept=0)
    _, details = prepare_series(only(tmp_path))
    assert "the lowest value is 0 HU" in unit_warnings([{"bag_id": UID, **details}])[0]
