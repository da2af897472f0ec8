"""MetaImage and NIfTI volumes, against SimpleITK's reading of the same files, and what it accepts but should not."""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from lungtl.predict.inputs import find_input
from lungtl.predict.study import read_study
from lungtl.settings.errors import Refused
from lungtl.sources.ct.cut import cut_out, locate
from lungtl.sources.ct.series import find_series
from lungtl.sources.ct.volume import read_volume
from lungtl.sources.dicom import DicomSource
from tests.dicom_files import write_series
from tests.sources.ct.found import Z, only

sitk: Any = SimpleITK
FORMATS = ("a.mhd", "a.mha", "a.nii", "a.nii.gz")
IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)


def voxels(dtype: str = "int16") -> NDArray[Any]:
    """[6, 8, 10], no two alike in their surroundings."""
    return np.random.default_rng(0).integers(-1000, 400, (6, 8, 10)).astype(dtype)


def save(
    path: Path, hu: NDArray[Any] | None = None, direction: tuple[float, ...] = IDENTITY, *, packed: bool = False
) -> Any:
    """Write a volume of 0.7 x 0.8 x 2.5 mm with SimpleITK; returns its image."""
    image = sitk.GetImageFromArray(voxels() if hu is None else hu)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((10.5, 20.25, -30))
    image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), packed)
    return image


def signs(*values: int) -> tuple[float, ...]:
    return tuple(np.diag(values).astype(float).ravel())


def reason(root: Path) -> str:
    """Why the only scan of a folder is refused, when it is found or when it is read."""
    series, refusals = find_series(root)
    if refusals:
        assert not series
        return refusals[0].reason
    with pytest.raises(Refused) as caught:
        read_volume(series[0])
    return caught.value.reason


def patch(path: Path, offset: int, form: str, *values: float) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, *values)
    path.write_bytes(content)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_bytes()
    assert old.encode() in text
    path.write_bytes(text.replace(old.encode(), new.encode()))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packed", [False, True])
def test_volumes_are_those_of_simpleitk(tmp_path: Path, name: str, packed: bool) -> None:
    for number, turned in enumerate(product((1, -1), repeat=3)):
        folder = tmp_path / str(number)
        image = save(folder / name, direction=signs(*turned), packed=packed)
        series = only(folder)
        expected = sitk.DICOMOrient(image, "LPS")
        volume = read_volume(series)
        assert series.uid == "a"
        assert np.array_equal(volume.hu, sitk.GetArrayFromImage(expected))
        assert series.files[0].position_mm == pytest.approx(expected.GetOrigin(), abs=1e-5)
        assert volume.z_mm == pytest.approx([expected.GetOrigin()[2] + 2.5 * k for k in range(6)])
        assert volume.pixel_spacing_mm == pytest.approx((0.8, 0.7))
        part = read_volume(replace(series, files=series.files[1:4]))
        assert np.array_equal(part.hu, volume.hu[1:4])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint32", "float32", "float64"])
@pytest.mark.parametrize("name", ["a.mha", "a.nii"])
def test_number_types(tmp_path: Path, dtype: str, name: str) -> None:
    hu = (voxels("int32") % 100).astype(dtype) if dtype in ("uint8", "int8", "uint16", "uint32") else voxels(dtype)
    save(tmp_path / name, hu)
    if dtype.startswith("u"):  # no negative value
        assert reason(tmp_path) == "has values from 0 to 99, which are not HU (air is -1000)"
    elif dtype != "int8":
        assert np.array_equal(read_volume(only(tmp_path)).hu, hu.astype(np.int16))


def test_numbers_of_the_other_byte_order(tmp_path: Path) -> None:
    save(tmp_path / "a.mhd")
    edit(tmp_path / "a.mhd", "BinaryDataByteOrderMSB = False", "BinaryDataByteOrderMSB = True")
    (tmp_path / "a.raw").write_bytes(voxels().astype(">i2").tobytes())
    assert np.array_equal(read_volume(only(tmp_path)).hu, voxels())


def test_scaled_nifti(tmp_path: Path) -> None:
    stored = np.abs(voxels()).astype(np.uint16)
    save(tmp_path / "a.nii", stored)
    patch(tmp_path / "a.nii", 112, "<2f", 0.5, -1024)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii")))
    assert np.array_equal(read_volume(only(tmp_path)).hu, np.rint(expected))
    patch(tmp_path / "a.nii", 112, "<2f", float("nan"), float("nan"))  # as nibabel writes "not scaled"
    assert reason(tmp_path).startswith("has values from 0 to")


def test_points_are_the_voxels_that_simpleitk_finds(tmp_path: Path) -> None:
    image = save(tmp_path / "a.mhd", direction=signs(-1, -1, 1))  # as some scans of LUNA16 are stored
    series = only(tmp_path)
    hu = read_volume(series).hu
    for index in ((0, 0, 0), (3, 5, 2), (9, 7, 5)):
        point = image.TransformIndexToPhysicalPoint(index)
        row, column = locate(series, point)
        k = int(np.abs(series.z_mm - point[2]).argmin())
        assert hu[k, round(row), round(column)] == image.GetPixel(index)
        assert (row, column) == pytest.approx((round(row), round(column)), abs=1e-5)
        cut = cut_out(series, row, column, np.array([point[2]]), 0.7)
        assert image.GetPixel(index) in cut


def test_candidates_of_luna16(tmp_path: Path) -> None:
    """Its layout: subsets of .mhd files named by SeriesInstanceUID, and candidates in world coordinates."""
    uid = "1.3.6.1.4.1.14519.5.2.1.6279.6001.109002525524522225658609808059"  # of LIDC-IDRI
    image = save(tmp_path / "subset0" / f"{uid}.mhd")
    point = image.TransformIndexToPhysicalPoint((4, 3, 2))
    place = ",".join(map(str, point))
    (tmp_path / "candidates.csv").write_text(f"seriesuid,coordX,coordY,coordZ,class\n{uid},{place},1\n")
    source = DicomSource(root=str(tmp_path), table=str(tmp_path / "candidates.csv"), field_mm=0.5, depth_mm=0.5)
    inventory = source.inventory()
    assert inventory.refusals == ()
    bag = source.load(inventory.items[0])
    assert (bag.bag_label, bag.voxels.shape) == (1, (1, 1, 1))
    assert bag.voxels[0, 0, 0] == image.GetPixel(4, 3, 2)
    assert bag.patient_id.startswith("LIDC-IDRI-")


def test_a_volume_file_as_the_input(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz")
    save(tmp_path / "b.nii.gz")
    (series,), refusals = find_series(tmp_path / "a.nii.gz")
    assert (series.uid, refusals) == ("a", [])
    with find_input(tmp_path / "b.nii.gz", tmp_path, 1.0, False) as found:  # of lungtl predict
        assert [series.uid for series in found.series] == ["b"]
        assert found.paths == {"b": "b.nii.gz"}
    with pytest.raises(Refused, match=r"a\.nii\.gz is not DICOM"):
        read_study(series)


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        hu = voxels()
        hu[3, 4, 5] += name == "c"
        save(tmp_path / name / "x.mhd", hu)
    prints = [only(tmp_path / name).fingerprint for name in ("a", "b", "c")]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_volume(tmp_path: Path, name: str, packed: bool) -> None:
    """SimpleITK returns zeros for the missing values of a NIfTI file."""
    save(tmp_path / name, packed=packed)
    data = next((path for path in tmp_path.iterdir() if path.suffix in (".raw", ".zraw")), tmp_path / name)
    os.truncate(data, data.stat().st_size - 20)
    assert reason(tmp_path).startswith("is damaged: ")


@pytest.mark.parametrize("name", ["a.mhd", "a.mha", "a.nii.gz"])
def test_altered_bytes_of_compressed_values(tmp_path: Path, name: str) -> None:
    """SimpleITK returns what it could decompress."""
    save(tmp_path / name, packed=True)
    data = next((path for path in tmp_path.iterdir() if path.suffix == ".zraw"), tmp_path / name)
    content = bytearray(data.read_bytes())
    content[-60] ^= 0xFF
    data.write_bytes(content)
    assert reason(tmp_path).startswith("is damaged: ")


def test_more_values_than_the_header_requires(tmp_path: Path) -> None:
    save(tmp_path / "a.mhd")
    with (tmp_path / "a.raw").open("ab") as file:
        file.write(b"\0\0")
    assert reason(tmp_path) == "is damaged: more than 960 bytes of values, the header requires 960"


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_headers_are_refused_or_read(tmp_path: Path, name: str) -> None:
    """Any byte may be wrong: nothing else than a refusal of the file is raised."""
    path = tmp_path / name
    save(path)
    whole = path.read_bytes()
    for position in range(0, 348 if "nii" in name else whole.index(b"ElementDataFile"), 3):
        content = bytearray(whole)
        content[position] ^= 0x5A
        path.write_bytes(content)
        for series in find_series(tmp_path)[0]:
            with suppress(Refused):
                assert len(read_volume(series).hu) == len(series.files)
    path.write_bytes(whole[:60])
    assert len(find_series(tmp_path)[1]) == 1


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
