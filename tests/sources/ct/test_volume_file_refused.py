"""MetaImage and NIfTI files whose header or name is refused, although SimpleITK reads some of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from lungtl.sources.ct.series import find_series
from lungtl.sources.ct.volume import read_volume
from tests.dicom_files import write_series
from tests.sources.ct.found import Z, only
from tests.sources.ct.test_volume_file import edit, patch, reason, save, signs, voxels

sitk: Any = SimpleITK


@pytest.mark.parametrize("name", ["a.mhd", "a.nii.gz"])
def test_oblique_and_sagittal_volumes(tmp_path: Path, name: str) -> None:
    c, s = np.cos(0.2), np.sin(0.2)
    save(tmp_path / "oblique" / name, direction=(c, -s, 0, s, c, 0, 0, 0, 1))
    save(tmp_path / "sagittal" / name, direction=(0, 0, 1, 1, 0, 0, 0, 1, 0))
    assert "which are oblique or not axial" in reason(tmp_path / "oblique")
    assert "which are oblique or not axial" in reason(tmp_path / "sagittal")


def test_more_than_one_volume(tmp_path: Path) -> None:
    image = save(tmp_path / "other" / "x.nii")
    for name in ("a.nii", "a.mha"):
        (tmp_path / name).mkdir()
        sitk.WriteImage(sitk.JoinSeries([image, image]), str(tmp_path / name / name))
    assert reason(tmp_path / "a.nii") == "has 10 x 8 x 6 x 2 values, expected one 3D volume"
    assert reason(tmp_path / "a.mha") == "has NDims 4, expected 3"
    save(tmp_path / "one" / "x.mha", voxels()[:1])
    assert reason(tmp_path / "one") == "only one slice, so its spacing is unknown"


def test_colours(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.zeros((6, 8, 10, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    assert reason(tmp_path) == "has ElementNumberOfChannels 3, expected 1"
    (tmp_path / "b").mkdir()
    sitk.WriteImage(image, str(tmp_path / "b" / "b.nii"))
    assert reason(tmp_path / "b").endswith("expected one 3D volume")


@pytest.mark.parametrize("key", ["TransformMatrix", "Offset", "ElementSpacing", "DimSize"])
def test_metaimage_without_geometry(tmp_path: Path, key: str) -> None:
    """SimpleITK assumes the identity, zero and 1 mm."""
    save(tmp_path / "a.mhd")
    edit(tmp_path / "a.mhd", f"{key} =", f"Former{key} =")
    assert reason(tmp_path) == f"has no {key}"


def test_nifti_without_orientation(tmp_path: Path) -> None:
    """SimpleITK assumes LPS axes and the origin at zero."""
    save(tmp_path / "a.nii")
    patch(tmp_path / "a.nii", 252, "<2h", 0, 0)
    assert reason(tmp_path) == "has no orientation (qform_code and sform_code are 0)"


def test_nifti_with_one_orientation(tmp_path: Path) -> None:
    for offset, name in ((252, "qform"), (254, "sform")):
        image = save(tmp_path / name / "a.nii", direction=signs(-1, 1, -1))
        patch(tmp_path / name / "a.nii", offset, "<h", 0)
        expected = sitk.DICOMOrient(image, "LPS")
        assert only(tmp_path / name).files[0].position_mm == pytest.approx(expected.GetOrigin(), abs=1e-5)
        assert np.array_equal(read_volume(only(tmp_path / name)).hu, sitk.GetArrayFromImage(expected))


def test_nifti_with_two_orientations(tmp_path: Path) -> None:
    save(tmp_path / "a.nii")
    patch(tmp_path / "a.nii", 280 + 12, "<f", 77.0)  # x of sform's origin, which is -10.5
    assert reason(tmp_path) == "has two orientations that differ by 87.5 mm (qform and sform)"


@pytest.mark.parametrize(
    ("offset", "form", "value", "expected"),
    [(123, "<B", 1, "has xyzt_units 1, expected 2 (mm)"), (70, "<h", 128, "has the data type 128, expected"),
     (0, "<i", 540, "is NIfTI-2, which is not read"), (344, "<4s", b"ni1\0", "is not a NIfTI-1 file"),
     (108, "<f", 0, "has vox_offset 0, expected at least 348"), (42, "<h", 9000, "declares 8 x 9000 pixels")],
)  # fmt: skip
def test_nifti_that_is_refused(tmp_path: Path, offset: int, form: str, value: Any, expected: str) -> None:
    save(tmp_path / "a.nii")
    patch(tmp_path / "a.nii", offset, form, value)
    assert reason(tmp_path).startswith(expected)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [("MET_SHORT", "MET_LONG", "has an unsupported ElementType"), ("BinaryData = True", "BinaryData = False", "has B"),
     ("= a.raw", "= LIST", "has one file of values per slice"), ("= a.raw", "= a%03d.raw 1 6 1", "has one file of"),
     ("= a.raw", "= b.raw", "has no file of values"), ("= a.raw", "= ../x.raw", "has its values outside the folder"),
     ("2.5", "-2.5", "has the voxel spacing 0.7, 0.8, -2.5 mm"), ("2.5", "2,5", "has an invalid ElementSpacing"),
     ("-30", "-3e9", "is 3e+09 mm from the origin"), ("ElementDataFile", "Data", "is not a MetaImage header")],
)  # fmt: skip
def test_metaimage_that_is_refused(tmp_path: Path, old: str, new: str, expected: str) -> None:
    save(tmp_path / "in" / "a.mhd")
    (tmp_path / "x.raw").write_bytes(voxels().tobytes())
    edit(tmp_path / "in" / "a.mhd", old, new)
    assert reason(tmp_path / "in").startswith(expected)
    if "x.raw" in new:
        (series,), _ = find_series(tmp_path / "in", follow_links=True)
        assert np.array_equal(read_volume(series).hu, voxels())


@pytest.mark.parametrize(
    ("values", "expected"),
    [((0, 1), "has values from 0 to 1, which are not HU"), ((-1, 1), "has values from -1 to 1, which are not HU"),
     ((-1000, np.nan), "has values that are not finite"), ((-1e6, 40), "has HU from -1e+06 to 40, outside int16")],
)  # fmt: skip
def test_values_that_are_not_hu(tmp_path: Path, values: tuple[float, float], expected: str) -> None:
    save(tmp_path / "a.nii.gz", np.resize(np.array(values, np.float32), (6, 8, 10)))
    assert reason(tmp_path).startswith(expected)


def test_two_scans_of_one_name(tmp_path: Path) -> None:
    save(tmp_path / "one" / "a.nii")
    save(tmp_path / "two" / "a.mhd")
    series, refusals = find_series(tmp_path)
    assert [refusal.item for refusal in refusals] == ["one/a.nii", "two/a.mhd"]
    assert not series
    assert refusals[0].reason == "has the same id as another scan of the folder: a"
    (tmp_path / "two" / "a.mhd").rename(tmp_path / "two" / "A.mhd")
    assert len(find_series(tmp_path)[1]) == 2  # one folder of results on some disks


@pytest.mark.parametrize(
    ("name", "accepted"),
    [("1.3.6.1", True), ("patient 01_b-2", True), ("Pat\u00e9", True), ("..", False), (".", False), (".hidden", False),
     ("=1+1", False), ("+a", False), ("-a", False), ("@a", False), (" a", False), ("a ", False), ("a.", False),
     ("a;b", False), ("a\\b", False)],
)  # fmt: skip
def test_a_name_that_would_be_a_path_or_a_formula(tmp_path: Path, name: str, accepted: bool) -> None:
    save(tmp_path / "x.nii")
    (tmp_path / "x.nii").rename(tmp_path / f"{name}.nii")
    series, refusals = find_series(tmp_path)
    assert [one.uid for one in series] == ([name] if accepted else [])
    assert [refusal.reason for refusal in refusals] == ([] if accepted else ["is no usable id"])


def test_a_volume_next_to_the_dicom_series_it_was_made_from(tmp_path: Path) -> None:
    uid = "1.2.3"
    write_series(tmp_path, Z, uid=uid)
    save(tmp_path / f"{uid}.nii.gz")
    (series,), (refusal,) = find_series(tmp_path)
    assert (series.uid, refusal.item) == (uid, f"{uid}.nii.gz")


def test_a_volume_larger_than_the_memory_limit(tmp_path: Path) -> None:
    save(tmp_path / "a.mhd")
    edit(tmp_path / "a.mhd", "DimSize = 10 8 6", "DimSize = 8000 8000 8000")
    (refusal,) = find_series(tmp_path)[1]
    assert "GB of memory, the limit is 2 GB" in refusal.reason
    edit(tmp_path / "a.mhd", "8000 8000 8000", "1000 1000 900")
    (refusal,) = find_series(tmp_path)[1]
    assert "need 8.1 GB of memory, the limit is 2 GB" in refusal.reason


def test_special_files_with_the_name_of_a_volume(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")  # to open it would wait for ever
    (tmp_path / "b.mhd").touch()
    assert {one.item: one.reason for one in find_series(tmp_path)[1]} == {
        "a.nii": "not a regular file",
        "b.mhd": "empty file (0 bytes)",
    }
