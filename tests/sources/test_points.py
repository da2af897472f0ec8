"""Tables of nodules, and the nodules that `dataset=dicom` cuts out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.data.store.writer import prepare
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sources.dicom import DicomSource
from lungtl.sources.points import read_points
from tests.dicom_files import UID, ramp, write_series

A, B = f"{UID}.1", f"{UID}.2"
HEAD = "series_uid,patient_id,label,x_mm,y_mm,z_mm"
UID_0063 = "1.3.6.1.4.1.14519.5.2.1.6279.6001.272190966764020277652079081128"
Make = Callable[..., DicomSource]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Two series of 11 slices, 1 mm apart, 20 x 20 pixels of 0.75 mm, the first pixel at the origin."""

    def place(k: int, dataset: Any) -> None:
        dataset.ImagePositionPatient = ["0", "0", str(k)]

    for uid in (A, B):
        write_series(tmp_path / "scans" / uid, range(11), ramp(11, 20, 20), uid=uid, edit=place)

    def write(table: str, **options: object) -> DicomSource:
        (tmp_path / "points.csv").write_text(table)
        return DicomSource(str(tmp_path / "scans"), str(tmp_path / "points.csv"), **options)  # type: ignore[arg-type]

    return write


def test_every_point_is_a_case_on_the_slices_of_its_diameter(make: Make) -> None:
    source = make(f"{HEAD},diameter_mm\n{A},p1,1,7.5,6,5,4\n{A},p1,0,3,3,2,\n{B},p2,,7.5,7.5,0,3\n", field_mm=6,
                  depth_mm=3)  # fmt: skip
    bags = {item.bag_id: source.load(item) for item in source.inventory().items}
    assert {key: (bag.patient_id, bag.bag_label) for key, bag in bags.items()} == {
        f"{A}_0": ("p1", 1), f"{A}_1": ("p1", 0), f"{B}_0": ("p2", -1)
    }  # fmt: skip
    assert [bag.z_mm.tolist() for bag in bags.values()] == [[3, 4, 5, 6, 7], [1, 2, 3], [0, 1]]
    assert bags[f"{A}_0"].diameter_mm == 4
    assert math.isnan(bags[f"{A}_1"].diameter_mm)
    first = bags[f"{A}_0"]
    assert first.pixel_spacing_mm == (0.75, 0.75)
    whole = ramp(11, 20, 20) - 1024
    np.testing.assert_array_equal(first.voxels, whole[3:8, 4:12, 6:14])  # 8 pixels around row 8, column 10
    assert set(first.slice_labels) == {-1}
    assert (first.details["x_mm"], first.details["y_mm"], first.details["z_mm"]) == (7.5, 6, 5)


def test_a_patients_nodules_are_one_case(make: Make) -> None:
    source = make(f"{HEAD}\n{A},p1,0,7.5,6,5\n{A},p1,1,3,3,2\n{B},p2,0,7.5,7.5,0\n{B},p2,,3,3,3\n", bag="patient",
                  depth_mm=1)  # fmt: skip
    bags = {item.bag_id: source.load(item) for item in source.inventory().items}
    assert {key: (len(bag.voxels), bag.bag_label, bag.details["n_nodules"]) for key, bag in bags.items()} == {
        "p1": (2, 1, 2), "p2": (2, -1, 2)
    }  # fmt: skip
    assert np.isnan(bags["p1"].z_mm).all()
    two = make(f"{HEAD}\n{A},p1,0,7.5,6,5\n{B},p1,1,3,3,2\n", bag="patient").inventory()
    assert [refusal.item for refusal in two.refusals] == ["p1"]
    assert not two.items


def test_a_point_outside_is_quarantined_with_its_value(make: Make, tmp_path: Path) -> None:
    store = prepare(make(f"{HEAD}\n{A},p1,1,7.5,6,5\n{A},p1,0,-99,6,5\n"), tmp_path / "data")
    assert store.bags["bag_id"].tolist() == [f"{A}_0"]
    (refused,) = map(json.loads, (store.path / "quarantine.jsonl").read_text().splitlines()[-1:])
    assert refused["item"] == f"{A}_1"
    assert "(-99, 6, 5) mm is outside the volume: row 8.0 of 20, column -132.0 of 20" in refused["reason"]


def test_candidates_of_luna16(tmp_path: Path) -> None:
    path = tmp_path / "candidates.csv"
    path.write_text(f"seriesuid,coordX,coordY,coordZ,class\n{UID_0063},-56.08,-67.85,-311.92,0\n")
    ((uid, (point,)),) = read_points(path).items()
    assert uid == UID_0063
    assert (point.patient_id, point.label, point.position_mm) == ("LIDC-IDRI-0063", 0, (-56.08, -67.85, -311.92))
    assert math.isnan(point.diameter_mm)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (f"{HEAD}\n{A},p1,1,7,x,5\n", "line 2: y_mm is 'x'; expected a number in mm"),
        (f"{HEAD}\n{A},p1,1,7,nan,5\n", "line 2: y_mm is 'nan'; expected a number in mm"),
        (f"{HEAD}\n{A},p1,5,7,6,5\n", "line 2: label is '5'; expected 0, 1 or empty"),
        (f"{HEAD}\n{A},,1,7,6,5\n", "line 2: no patient_id; fill it in"),
        (f"{HEAD}\n{A},p1,1,7,6,5\n{A},p1,0,7,6,5\n", r"line 3: the point \(7, 6, 5\) of .* is repeated"),
        (f"{HEAD}\n{A},p1,1,7,6,5\n{A},p2,0,7,6,6\n", "line 3: series .* has two patients"),
        (f"{HEAD},diameter_mm\n{A},p1,1,7,6,5,-2\n", "line 2: diameter_mm is -2; expected a positive number"),
        (f"seriesuid,coordX,coordY,coordZ,class\n{A},1,2,3,0\n", "line 2: no patient_id; .*only series of LIDC-IDRI"),
        ("series_uid,patient_id,x_mm,y_mm,z_mm\n", "has no column label"),
    ],
)
def test_wrong_tables(make: Make, table: str, message: str) -> None:
    with pytest.raises(LungtlError, match=message):
        make(table).inventory()


def test_the_crop_to_the_lungs_is_for_scans(make: Make) -> None:
    with pytest.raises(UsageError, match=r"dataset\.crop=lungs is for whole scans"):
        make(f"{HEAD}\n{A},p1,1,7,6,5\n", crop="lungs").listing()


def test_the_options_of_nodules_do_not_change_stores_of_scans(make: Make) -> None:
    scans = f"series_uid,patient_id,label\n{A},p1,1\n"
    assert make(scans, field_mm=9).recipe() == {"kind": "dicom", "max_gap_mm": 10.0, "crop": "none"}
    assert make(f"{HEAD}\n").recipe()["field_mm"] == 80
