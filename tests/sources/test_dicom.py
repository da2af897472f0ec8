"""Scans of one's own: tiny series and tables of labels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources.base import Bag
from lungtl.sources.dicom import DicomSource
from tests.dicom_files import UID, ramp, write_series

A, B, C = f"{UID}.1", f"{UID}.2", f"{UID}.3"
HEAD = "series_uid,patient_id,label\n"
Make = Callable[..., DicomSource]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Three series, 2 mm apart, and the table."""
    for uid in (A, B, C):
        write_series(tmp_path / "scans" / uid, [0, 2, 4], ramp(3, 1, 2), uid=uid)

    def write(table: str, **options: Any) -> DicomSource:
        (tmp_path / "labels.csv").write_text(table, encoding="utf-8")
        return DicomSource(str(tmp_path / "scans"), str(tmp_path / "labels.csv"), **options)

    return write


def bags(source: DicomSource) -> dict[str, Bag]:
    return {item.bag_id: source.load(item) for item in source.inventory().items}


# Accepted


def test_labels(make: Make) -> None:
    found = bags(make(f"{HEAD}{A},p1,1\n{B},p2,0\n{C},p3,\n"))
    assert {uid: (bag.patient_id, bag.bag_label) for uid, bag in found.items()} == {
        A: ("p1", 1),
        B: ("p2", 0),
        C: ("p3", -1),
    }


def test_slices_are_1_mm_and_unlabelled(make: Make) -> None:
    bag = bags(make(f"{HEAD}{A},p1,1\n"))[A]
    assert bag.z_mm.tolist() == [0, 1, 2, 3, 4]
    assert bag.voxels[:, 0, 0].tolist() == [-1024, -1017, -1010, -1003, -996]
    assert bag.slice_labels.tolist() == [-1] * 5
    assert np.isnan(bag.diameter_mm)
    assert bag.split is None
    assert (bag.details["n_native_slices"], bag.details["native_spacing_mm"]) == (3, 2.0)


def test_split_column(make: Make) -> None:
    table = f"split,label,patient_id,series_uid\ntrain,1,p1,{A}\n test ,0,p2,{B}\n,0,p3,{C}\n"
    assert [bag.split for bag in bags(make(table)).values()] == ["train", "test", None]


def test_spaces_and_a_byte_order_mark_are_harmless(make: Make) -> None:
    found = bags(make(f"\ufeff{HEAD} {A} , p1 , 1 \n"))
    assert (found[A].patient_id, found[A].bag_label) == ("p1", 1)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("1.0", 1),
        ("True", 1),
        ('"1"', 1),
        ("0.0", 0),
        ("FALSE", 0),
        ("NaN", -1),
        ("<NA>", -1),
        ("None", -1),
        ('""', -1),
    ],
)
def test_labels_as_other_programs_write_them(make: Make, text: str, label: int) -> None:
    assert bags(make(f"{HEAD}{A},p1,{text}\n"))[A].bag_label == label


@pytest.mark.parametrize(
    "table",
    [
        f" series_uid ,patient_id,\tlabel\xa0\n{A},p1,1\n",  # padded names
        f"{HEAD}{A},p1,1,,\n\n",  # commas at the end, an empty line
        f",series_uid,patient_id,label\n0,{A},p1,1\n",  # the index of a pandas table
        f"series_uid,patient_id,label,\n{A},p1,1,\n",
    ],
)
def test_harmless_columns_and_spaces(make: Make, table: str) -> None:
    found = bags(make(table))
    assert (found[A].patient_id, found[A].bag_label) == ("p1", 1)


def test_values_in_shifted_columns_are_noticed(make: Make) -> None:
    with pytest.raises(LungtlError, match=r"line 2 has 4 values, the header has 3 columns; name every column"):
        make(f"{HEAD}1,{A},p1,1\n").inventory()  # as R writes row names


def test_patient_ids_stay_text(make: Make) -> None:
    assert bags(make(f"{HEAD}{A},007,1\n"))[A].patient_id == "007"
    assert bags(make(f"{HEAD}{A},NA,1\n"))[A].patient_id == "NA"


def test_labels_belong_to_scans_not_to_patients(make: Make) -> None:
    found = bags(make(f"{HEAD}{A},p1,0\n{B},p1,1\n{C},p1,\n"))
    assert [bag.bag_label for bag in found.values()] == [0, 1, -1]


# Refused


def test_series_without_a_row(make: Make) -> None:
    inventory = make(f"{HEAD}{B},p1,1\n").inventory()
    assert [item.bag_id for item in inventory.items] == [B]
    assert {r.item: r.reason for r in inventory.refusals} == {A: "not in labels.csv", C: "not in labels.csv"}


def test_row_of_a_refused_series_is_no_error(make: Make, tmp_path: Path) -> None:
    write_series(tmp_path / "scans" / "bad", [0], uid=f"{UID}.4")
    inventory = make(f"{HEAD}{A},p1,1\n{UID}.4,p2,0\n").inventory()
    assert [item.bag_id for item in inventory.items] == [A]
    assert (f"{UID}.4", "only one slice, so its spacing is unknown") in [(r.item, r.reason) for r in inventory.refusals]


def test_gap(make: Make, tmp_path: Path) -> None:
    write_series(tmp_path / "scans" / A, [0, 2, 12.5], ramp(3, 1, 2), uid=A)
    source = make(f"{HEAD}{A},p1,1\n")
    with pytest.raises(Refused, match=r"a gap of 10.5 mm between slices; .* dataset.max_gap_mm=11"):
        bags(source)
    assert len(bags(make(f"{HEAD}{A},p1,1\n", max_gap_mm=11.0))[A].voxels) == 13


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "series_uid,label\n",
            r"has no column patient_id \(it has series_uid, label\); .*, patient_id, label",
        ),
        ("uid;patient;label\n", r"has no column series_uid \(it has uid;patient;label\)"),
        (f"{HEAD}1.2.9,p1,1\n{A},p2,0\n1.2.8,p3,0\n", "2 of 3 series_uid are not in .*, the first is 1.2.8"),
        (f"{HEAD}{A},p1,1\n{B},p2,0\n{A},p1,1\n", f"line 4: series_uid {A} is repeated"),
        (f"{HEAD}{A},p1,2\n", "line 2: label is '2'; expected 0, 1 or empty"),
        (f"{HEAD}{A},p1,yes\n", "line 2: label is 'yes'"),
        (f"{HEAD}{A},p1,-1\n", "line 2: label is '-1'"),
        (f"label,{HEAD}1,{A},p1,1\n", r"has several columns label \("),
        (f"{HEAD},p1,1\n", "line 2: no series_uid; fill it in"),
        (f"{HEAD}{A}, ,1\n", "line 2: no patient_id; fill it in"),
        ("", r"labels.csv has no column series_uid"),
        (f"{HEAD}{A},p1,1\n{B},p2,0,0,0\n", "labels.csv line 3 has 5 values, the header has 3 columns"),
    ],
)
def test_bad_table(make: Make, table: str, message: str) -> None:
    with pytest.raises(LungtlError, match=message) as caught:
        make(table).inventory()
    assert "\n" not in str(caught.value)


def test_table_that_is_not_text(make: Make, tmp_path: Path) -> None:
    source = make(HEAD)
    (tmp_path / "labels.csv").write_bytes(b"PK\x03\x04\xff\xfe\x00")
    with pytest.raises(LungtlError, match=r"labels.csv is not a readable CSV file"):
        source.inventory()


def test_table_that_is_a_folder(make: Make, tmp_path: Path) -> None:
    make(HEAD)
    with pytest.raises(LungtlError, match="scans is not a readable CSV file"):
        DicomSource(str(tmp_path / "scans"), str(tmp_path / "scans")).inventory()


@pytest.mark.parametrize(("option", "expected"), [("root", "a folder"), ("table", "a CSV file")])
def test_missing_paths(make: Make, tmp_path: Path, option: str, expected: str) -> None:
    make(HEAD)
    paths = {"root": str(tmp_path / "scans"), "table": str(tmp_path / "labels.csv")}
    with pytest.raises(LungtlError, match=f"dataset.{option}=.*gone does not exist; .* to {expected}"):
        DicomSource(**(paths | {option: str(tmp_path / "gone")})).listing()  # type: ignore[arg-type]


# As a source


def test_a_changed_row_changes_its_item_alone(make: Make) -> None:
    before = make(f"{HEAD}{A},p1,1\n{B},p2,0\n").inventory()
    after = make(f"{HEAD}{B},p2,1\n{A},p1,1\n").inventory()
    assert before.items[0].fingerprint == after.items[0].fingerprint
    assert before.items[1].fingerprint != after.items[1].fingerprint
    assert before.fingerprint != after.fingerprint


def test_listing_sees_the_table(make: Make) -> None:
    before = make(f"{HEAD}{A},p1,1\n").listing()
    assert make(f"{HEAD}{A},p1,1\n{B},p2,0\n").listing() != before


def test_listing_sees_a_decoder_that_was_installed_since(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make(f"{HEAD}{A},p1,1\n")
    before = source.listing()
    monkeypatch.setattr("lungtl.sources.dicom.decoders", lambda: ["1.2.3"])
    assert source.listing() != before


def test_listing_sees_behind_a_linked_folder(make: Make, tmp_path: Path) -> None:
    source = make(f"{HEAD}{A},p1,1\n", follow_links=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "scans" / "link").symlink_to(tmp_path / "elsewhere")
    before = source.listing()
    (tmp_path / "elsewhere" / "new.dcm").write_bytes(b"x")
    assert source.listing() != before


def test_a_series_that_needs_too_much_memory_is_refused(make: Make) -> None:
    source = make(f"{HEAD}{A},p1,1\n", max_gb=1e-9)
    refusals = {refusal.item: refusal for refusal in source.inventory().refusals}
    assert refusals[A].reason == "3 slices of 1 x 2 (5 at 1 mm) need 0.0 GB of memory, the limit is 1e-09 GB"
    assert source.recipe() != make(f"{HEAD}{A},p1,1\n").recipe()
