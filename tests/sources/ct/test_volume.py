"""HU: by hand and against SimpleITK."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from lungtl.settings.errors import Refused
from lungtl.sources.ct.series import find_series
from lungtl.sources.ct.volume import read_volume
from tests.dicom_files import ramp, truncate, write_series
from tests.sources.ct.found import only, unreadable

sitk: Any = SimpleITK


def simpleitk(folder: Path) -> Any:
    """The series as an independent reader has it; SimpleITK sorts by position itself."""
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return sitk.ReadImage(names, sitk.sitkFloat64)


def column(*values: int) -> NDArray[np.int16]:
    """One voxel a slice."""
    return np.array(values, dtype=np.int16).reshape(-1, 1, 1)


# Hounsfield units


def test_each_slice_has_its_own_coefficients(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 2, 4], column(100, 100, 100), slope=[1, 2, 0.5], intercept=[-1024, -1000, 7])
    assert read_volume(only(tmp_path)).hu.ravel().tolist() == [-924, -800, 57]


def test_fractions_are_rounded(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 1], np.arange(8).astype(np.int16).reshape(2, 1, 4), slope=0.75, intercept=-0.3)
    # -.3 .45 1.2 1.95 / 2.7 3.45 4.2 4.95
    assert read_volume(only(tmp_path)).hu.ravel().tolist() == [0, 0, 1, 2, 3, 3, 4, 5]


@pytest.mark.parametrize("dtype", [np.int16, np.uint16])
def test_signed_and_unsigned_pixels(tmp_path: Path, dtype: type) -> None:
    values = [-2000, 3071] if dtype is np.int16 else [40000, 3071]
    write_series(tmp_path, [0, 1], np.array(values, dtype).reshape(2, 1, 1), intercept=-10000)
    assert read_volume(only(tmp_path)).hu.ravel().tolist() == [values[0] - 10000, -6929]


def test_padding_is_not_special(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 1], column(-2000, 5), intercept=0, PixelPaddingValue=-2000)
    assert read_volume(only(tmp_path)).hu.ravel().tolist() == [-2000, 5]


@pytest.mark.parametrize(
    ("padding", "dtype", "intercept", "limit"),
    [
        (-32768, np.int16, -1024, None),
        (65535, np.uint16, -1024, None),
        (63536, np.uint16, 0, None),  # -2000 of an unsigned scan
        (65530, np.uint16, 0, 65535),  # a range of padding values
        (65535, np.uint16, 0, 65530),
    ],
)
def test_padding_outside_int16(tmp_path: Path, padding: int, dtype: type, intercept: int, limit: int | None) -> None:
    stored: NDArray[Any] = np.array([[[padding, 24]], [[7 if limit is None else 65532, padding]]], dtype)

    def edit(_: int, dataset: FileDataset) -> None:
        dataset.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
        if limit is not None:
            dataset.add_new("PixelPaddingRangeLimit", "US", limit)

    write_series(tmp_path, [0, 1], stored, intercept=intercept, edit=edit)
    second = -32768 if limit is not None else 7 + intercept
    assert read_volume(only(tmp_path)).hu.ravel().tolist() == [-32768, 24 + intercept, second, -32768]


def test_padding_of_whole_slices_and_other_values_outside_int16(tmp_path: Path) -> None:
    write_series(tmp_path / "a", [0, 1], column(-32768, 5), PixelPaddingValue=-32768)
    assert read_volume(only(tmp_path / "a")).hu.ravel().tolist() == [-32768, -1019]
    write_series(tmp_path / "b", [0, 1], column(-32768, 5), PixelPaddingValue=-2000)
    assert unreadable(tmp_path / "b") == "slice-000.dcm has HU from -33792 to -33792, outside int16"


@pytest.mark.parametrize(
    ("slope", "intercept", "dtype"),
    [(1, -1024, np.int16), (1, -1024, np.uint16), (2, 3, np.int16), (-1, 0, np.int16)],
)
def test_same_hu_as_simpleitk(tmp_path: Path, slope: float, intercept: float, dtype: type) -> None:
    stored: NDArray[Any] = np.random.default_rng(0).integers(0, 4096, (5, 6, 7)).astype(dtype)
    z = [4.0, -1.0, 9.0, 14.0, -6.0]
    write_series(tmp_path, z, stored, slope=slope, intercept=intercept, PixelSpacing=["0.5", "0.8"])
    found, oracle = read_volume(only(tmp_path)), simpleitk(tmp_path)
    assert np.array_equal(found.hu, sitk.GetArrayFromImage(oracle))
    assert oracle.GetSpacing() == (0.8, 0.5, 5.0)  # x, y, z
    assert found.pixel_spacing_mm == (0.5, 0.8)
    assert oracle.GetOrigin()[2] == found.z_mm[0]


def test_twelve_bits_signed_as_simpleitk(tmp_path: Path) -> None:
    def twelve(_: int, dataset: FileDataset) -> None:
        dataset.BitsStored, dataset.HighBit = 12, 11

    write_series(tmp_path, [0, 1], column(0x0FFF, 0x0800), intercept=0, edit=twelve)
    assert read_volume(only(tmp_path)).hu.ravel().tolist() == [-1, -2048]
    assert sitk.GetArrayFromImage(simpleitk(tmp_path)).ravel().tolist() == [-1, -2048]


def test_compressed_pixels(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 1, 2], rle=True)
    assert np.array_equal(read_volume(only(tmp_path)).hu, ramp(3) - 1024)


def test_extremes_of_int16(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 1], column(-32768, 32767), intercept=0)
    assert read_volume(only(tmp_path)).hu.ravel().tolist() == [-32768, 32767]


# Refused


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"intercept": 1}, "slice-001.dcm has HU from 32768 to 32768, outside int16"),
        ({"slope": -2}, "slice-001.dcm has HU from -66558 to -66558, outside int16"),
        ({"intercept": 0.5}, "slice-001.dcm has HU from 32767.5 to 32767.5, outside int16"),
        ({"intercept": 3e9}, "slice-000.dcm has HU from 3e+09 to 3e+09, outside int16"),
        ({"intercept": 1e300}, "slice-000.dcm has HU from 1e+300 to 1e+300, outside int16"),
        ({"slope": 1e308}, "slice-001.dcm has HU from inf to inf, outside int16"),
    ],
)
def test_hu_beyond_int16(tmp_path: Path, tags: dict[str, Any], reason: str) -> None:
    write_series(tmp_path, [0, 1], column(0, 32767), **tags)
    assert unreadable(tmp_path) == reason


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"slope": 0}, "slice-000.dcm has RescaleSlope 0"),
        ({"RescaleSlope": ["1", "2"]}, "slice-000.dcm has an invalid RescaleSlope"),
        ({"RescaleSlope": "inf"}, "slice-000.dcm has an invalid RescaleSlope"),
        ({"RescaleIntercept": "1e999"}, "slice-000.dcm has an invalid RescaleIntercept"),
        ({"PixelData": None}, "slice-000.dcm has no PixelData"),
        ({"BitsAllocated": None}, "slice-000.dcm has no BitsAllocated"),
        ({"BitsStored": 17}, "slice-000.dcm has BitsStored 17, expected 1 to 16"),
        ({"PixelRepresentation": 2}, "slice-000.dcm has PixelRepresentation 2, expected 0 or 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR DS:UserWarning")
def test_bad_values(tmp_path: Path, tags: dict[str, Any], reason: str) -> None:
    write_series(tmp_path, [0, 1], column(0, 32767), **tags)
    series, (refusal,) = find_series(tmp_path)
    assert (series, refusal.reason) == ([], reason)


def test_file_that_disappeared(tmp_path: Path) -> None:
    path = write_series(tmp_path, [0, 1])[1]
    series = only(tmp_path)
    path.unlink()
    with pytest.raises(Refused, match=r"slice-001.dcm cannot be read \(No such file"):
        read_volume(series)


def longer_pixels(folder: Path) -> None:
    write_series(folder, [0, 1], ramp(2, 5, 5))


def shorter_file(folder: Path) -> None:
    truncate(folder / "slice-000.dcm", -2)


@pytest.mark.parametrize("change", [longer_pixels, shorter_file])
def test_file_that_changed_since(tmp_path: Path, change: Callable[[Path], None]) -> None:
    write_series(tmp_path, [0, 1])
    series = only(tmp_path)
    change(tmp_path)
    with pytest.raises(Refused, match=r"slice-000.dcm has changed since its header was read; rerun the command"):
        read_volume(series)


def test_file_that_changed_at_the_same_size(tmp_path: Path) -> None:
    path = write_series(tmp_path, [0, 1])[0]
    series = only(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\xe0\x7f\x10\x00", b"\xe0\x7f\x11\x00"))
    with pytest.raises(Refused, match=r"slice-000.dcm has no PixelData"):
        read_volume(series)


def test_more_voxels_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(shape: tuple[int, ...], dtype: type) -> None:
        raise MemoryError(f"Unable to allocate {shape}")

    write_series(tmp_path, [0, 1])
    monkeypatch.setattr(np, "empty", empty)
    assert unreadable(tmp_path) == "2 slices of 3 x 4 do not fit into memory"
