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
from tests.sources.ct.found import only

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
