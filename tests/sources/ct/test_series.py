"""Finding and ordering series: tiny ones in every layout, and every reason to refuse one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from lungtl.sources.ct.series import find_series
from lungtl.sources.ct.volume import read_volume
from tests.dicom_files import UID, Edit, ramp, write_series
from tests.sources.ct.found import Z, only, reasons

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # our values are bad on purpose


# Accepted


def test_header_values(tmp_path: Path) -> None:
    write_series(tmp_path, Z, PixelSpacing=["0.5", "0.75"])
    series = only(tmp_path)
    assert (series.uid, series.shape, series.pixel_spacing_mm) == (UID, (3, 4), (0.5, 0.75))
    assert (series.files[0].slice_thickness_mm, series.files[0].manufacturer) == (2.5, "other")
    assert series.z_mm.tolist() == list(Z)
    assert series.native_spacing_mm == 2.5


def test_thickness_and_manufacturer_may_be_absent(tmp_path: Path) -> None:
    write_series(tmp_path, Z, SliceThickness=None, Manufacturer=None)
    series = only(tmp_path)
    assert np.isnan(series.files[0].slice_thickness_mm)
    assert series.files[0].manufacturer == ""


def test_spacing_is_the_median_step(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 1, 3, 6, 10])
    assert (only(tmp_path).native_spacing_mm, only(tmp_path).largest_gap_mm) == (2.5, 4)


# Layouts: the same slices, the same volume

NAMES = {
    "shuffled": ["d.dcm", "a.dcm", "c.dcm", "b.dcm"],
    "nested": ["x/1.dcm", "y/1.dcm", "y/deep/er/1.dcm", "0.dcm"],
    "bare": ["IM0", "IM1", "IM2", "IM3"],
    "odd": ["1.2.3.4", "IMG.IMA", "b c é.dcm", ".hidden"],
}


@pytest.mark.parametrize("layout", NAMES)
def test_names_and_folders_do_not_matter(tmp_path: Path, layout: str) -> None:
    write_series(tmp_path / "plain", Z)
    write_series(tmp_path / layout, Z, names=NAMES[layout])
    expected, found = only(tmp_path / "plain"), only(tmp_path / layout)
    assert found.fingerprint == expected.fingerprint
    assert np.array_equal(read_volume(found).hu, ramp(4) - 1024)


@pytest.mark.parametrize("order", [(3, 2, 1, 0), (2, 0, 3, 1)])
def test_slices_ascend_whatever_order_they_were_written_in(tmp_path: Path, order: tuple[int, ...]) -> None:
    write_series(tmp_path, np.array(Z)[list(order)], ramp(4)[list(order)])
    assert only(tmp_path).z_mm.tolist() == list(Z)
    assert np.array_equal(read_volume(only(tmp_path)).hu, ramp(4) - 1024)


def test_instance_numbers_do_not_order(tmp_path: Path) -> None:
    def number(k: int, dataset: FileDataset) -> None:
        dataset.InstanceNumber = (7, 3, 3, 1)[k]
        dataset.SliceLocation = (1, 9, 4, 4)[k]

    write_series(tmp_path, Z, edit=number)
    assert np.array_equal(read_volume(only(tmp_path)).hu, ramp(4) - 1024)


def test_several_series_in_one_folder(tmp_path: Path) -> None:
    for number in range(3):
        names = [f"{k}-{number}" for k in range(4)]
        write_series(tmp_path, Z, ramp(4) + number, uid=f"{UID}.{number}", names=names)
    series, refusals = find_series(tmp_path)
    assert refusals == []
    assert [s.uid for s in series] == [f"{UID}.0", f"{UID}.1", f"{UID}.2"]
    for number, found in enumerate(series):
        assert np.array_equal(read_volume(found).hu, ramp(4) + number - 1024)


def test_other_files_are_skipped(tmp_path: Path) -> None:
    write_series(tmp_path, Z)
    (tmp_path / "notes.xml").write_text("<LidcReadMessage/>")
    (tmp_path / "LICENSE").write_text("no DICOM\n" * 100)
    assert np.array_equal(read_volume(only(tmp_path)).hu, ramp(4) - 1024)


def test_fingerprint_sees_positions(tmp_path: Path) -> None:
    write_series(tmp_path / "a", Z)
    write_series(tmp_path / "b", [*Z[:3], -22.4])
    assert only(tmp_path / "a").fingerprint != only(tmp_path / "b").fingerprint


@pytest.mark.parametrize(
    "tags", [{"slope": 2}, {"intercept": -1000}, {"PixelSpacing": ["0.80", "0.75"]}], ids=lambda tags: next(iter(tags))
)
def test_fingerprint_sees_what_decides_the_values(tmp_path: Path, tags: dict[str, Any]) -> None:
    write_series(tmp_path / "a", Z)
    write_series(tmp_path / "b", Z, **tags)
    assert only(tmp_path / "a").fingerprint != only(tmp_path / "b").fingerprint


# Refused


@pytest.mark.parametrize(
    "tag",
    ["SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
     "RescaleSlope", "RescaleIntercept"],
)  # fmt: skip
def test_missing_tag(tmp_path: Path, tag: str) -> None:
    write_series(tmp_path / "bad", Z, edit=lambda k, d: d.__delitem__(tag) if k == 2 else None)
    assert reasons(tmp_path) == {UID: f"slice-002.dcm has no {tag}"}


def test_all_missing_tags_are_named(tmp_path: Path) -> None:
    write_series(tmp_path / "bad", Z, RescaleSlope=None, PixelSpacing=None)
    assert reasons(tmp_path) == {UID: "slice-000.dcm has no PixelSpacing, RescaleSlope"}


@pytest.mark.parametrize("value", [None, ""])
def test_no_series_uid(tmp_path: Path, value: str | None) -> None:
    write_series(tmp_path / "bad", Z, SeriesInstanceUID=value)
    assert reasons(tmp_path) == {"(no SeriesInstanceUID)": "4 files have no SeriesInstanceUID"}


def position(x: str, y: str, z: str) -> Edit:
    def edit(k: int, dataset: FileDataset) -> None:
        if k == 1:
            dataset.ImagePositionPatient = [x, y, z]

    return edit


def at_slice_1(**tags: Any) -> Edit:
    def edit(k: int, dataset: FileDataset) -> None:
        for keyword, value in tags.items():
            if k == 1:
                setattr(dataset, keyword, value)

    return edit


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "MR"}, "Modality is MR, not CT"),
        ({"Modality": None}, "Modality is missing, not CT"),
        ({"NumberOfFrames": 3}, "slice-000.dcm is multi-frame"),
        ({"NumberOfFrames": 0}, "slice-000.dcm has NumberOfFrames 0, expected 1"),
        ({"PhotometricInterpretation": None}, "slice-000.dcm has no PhotometricInterpretation"),
        ({"Rows": 60000, "Columns": 60000}, "slice-000.dcm declares 60000 x 60000 pixels"),
        ({"Columns": 0}, "slice-000.dcm declares 3 x 0 pixels"),
        ({"PixelSpacing": ["0", "0.5"]}, "slice-000.dcm has PixelSpacing 0, 0.5 mm"),
        ({"PixelSpacing": ["0.5", "-1"]}, "slice-000.dcm has PixelSpacing 0.5, -1 mm"),
        ({"PixelSpacing": "0.5"}, "slice-000.dcm has an invalid PixelSpacing"),
        (
            {"ImageOrientationPatient": ["1", "0", "0", "0", "0", "-1"]},
            "ImageOrientationPatient is 1\\0\\0\\0\\0\\-1, not axial",
        ),
        (
            {"ImageOrientationPatient": ["-1", "0", "0", "0", "-1", "0"]},
            "ImageOrientationPatient is -1\\0\\0\\0\\-1\\0, not axial",
        ),
        ({"ImageOrientationPatient": ["1", "0", "0"]}, "slice-000.dcm has an invalid ImageOrientationPatient"),
        ({"ImagePositionPatient": ["1", "0"]}, "slice-000.dcm has an invalid ImagePositionPatient"),
    ],
)
def test_series_refused(tmp_path: Path, tags: dict[str, Any], reason: str) -> None:
    write_series(tmp_path / "bad", Z, **tags)
    assert reasons(tmp_path) == {UID: reason}


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (at_slice_1(Rows=2, PixelData=b"\0" * 16), "Rows differs between slices (2, 3)"),
        (at_slice_1(Columns=5, PixelData=b"\0" * 30), "Columns differs between slices (4, 5)"),
        (
            at_slice_1(PixelSpacing=["0.5", "0.5"]),
            "PixelSpacing differs between slices ((0.5, 0.5), (0.75, 0.75))",
        ),
        (at_slice_1(Modality="PT"), "Modality differs between slices (CT, PT)"),
        (
            at_slice_1(ImageOrientationPatient=["1", "0", "0", "0", "0", "-1"]),
            "slices have different orientations",
        ),
        (
            at_slice_1(ImageOrientationPatient=["1", "0", "0", "0", "1", "nan"]),
            "slice-001.dcm has an invalid ImageOrientationPatient",
        ),
        (position("-10", "-19.4", "-27.5"), "slice origins shift by 0.6 mm in the plane (tilted gantry?)"),
        (position("-10", "-20", "inf"), "slice-001.dcm has an invalid ImagePositionPatient"),
        (position("-10", "-20", "1e300"), "slice-001.dcm is 1e+300 mm from the origin"),
        (position("-10", "-20", "-25"), "two slices at z = -25 mm: slice-001.dcm and slice-002.dcm"),
        (position("-10", "-20", "-25.005"), "two slices at z = -25.005 mm: slice-001.dcm and slice-002.dcm"),
    ],
)
def test_one_bad_slice_refuses_its_series(tmp_path: Path, edit: Edit, reason: str) -> None:
    write_series(tmp_path / "bad", Z, edit=edit)
    assert reasons(tmp_path) == {UID: reason}


def test_tilted_gantry(tmp_path: Path) -> None:
    def shift(k: int, dataset: FileDataset) -> None:
        dataset.ImagePositionPatient = ["-10", f"{-20 + 0.3 * k:g}", f"{Z[k]:g}"]

    write_series(tmp_path / "bad", Z, edit=shift)
    assert reasons(tmp_path) == {UID: "slice origins shift by 0.9 mm in the plane (tilted gantry?)"}


def test_tilted_orientation(tmp_path: Path) -> None:
    write_series(tmp_path / "bad", Z, ImageOrientationPatient=["1", "0", "0", "0", "0.9659", "-0.2588"])
    assert reasons(tmp_path) == {UID: "ImageOrientationPatient is 1\\0\\0\\0\\0.9659\\-0.2588, not axial"}


def test_rounded_orientation_and_origin_are_accepted(tmp_path: Path) -> None:
    write_series(tmp_path, Z, edit=position("-10.2", "-20", "-27.5"), ImageOrientationPatient=[1, 1e-4, 0, 0, 1, 0])
    assert len(only(tmp_path).files) == 4


def test_single_slice(tmp_path: Path) -> None:
    write_series(tmp_path / "bad", Z[:1])
    assert reasons(tmp_path) == {UID: "only one slice, so its spacing is unknown"}
