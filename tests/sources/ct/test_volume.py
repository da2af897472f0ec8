"""HU and 1 mm slices: by hand, against SimpleITK, and against themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from lungtl.settings.errors import Refused
from lungtl.sources.ct.series import find_series
from lungtl.sources.ct.volume import Volume, read_volume, resample_z
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


def test_more_voxels_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(shape: tuple[int, ...], dtype: type) -> None:
        raise MemoryError(f"Unable to allocate {shape}")

    write_series(tmp_path, [0, 1])
    monkeypatch.setattr(np, "empty", empty)
    assert unreadable(tmp_path) == "2 slices of 3 x 4 do not fit into memory"


# 1 mm slices


def volume(z_mm: list[float], *values: int) -> Volume:
    return Volume(column(*values), np.array(z_mm), (1.0, 1.0))


@pytest.mark.parametrize(
    ("z", "values", "z_new", "expected"),
    [
        ([0, 2], [0, 10], [0, 1, 2], [0, 5, 10]),
        ([-3.5, -1], [0, 100], [-3.5, -2.5, -1.5], [0, 40, 80]),
        ([0, 2.5, 5], [0, 25, -25], [0, 1, 2, 3, 4, 5], [0, 10, 20, 15, -5, -25]),
        ([0, 1, 4, 4.5], [0, 9, -9, 100], [0, 1, 2, 3, 4], [0, 9, 3, -3, -9]),
        ([0, 0.25, 0.5, 1.9], [7, 70, 14, -14], [0, 1], [7, 4]),
        ([0, 0.4], [3, 9], [0], [3]),
    ],
)
def test_linear_between_true_positions(
    z: list[float], values: list[int], z_new: list[float], expected: list[int]
) -> None:
    found = resample_z(volume(z, *values))
    assert found.z_mm.tolist() == pytest.approx(z_new)
    assert found.hu.ravel().tolist() == expected


def test_nothing_wraps_around_between_the_extremes() -> None:
    found = resample_z(volume([0, 5], -32768, 32767)).hu.ravel()
    assert found.tolist() == [-32768, -19661, -6554, 6553, 19660, 32767]


def test_step() -> None:
    found = resample_z(volume([0, 3], 0, 30), step_mm=0.5)
    assert found.hu.ravel().tolist() == [0, 5, 10, 15, 20, 25, 30]
    assert found.pixel_spacing_mm == (1.0, 1.0)


@pytest.mark.parametrize("spacing", [0.625, 1.25, 2.5, 3.0])
def test_even_spacing_as_simpleitk(spacing: float) -> None:
    hu = np.random.default_rng(1).integers(-1024, 3000, (9, 4, 5)).astype(np.int16)
    z0 = -117.3
    found = resample_z(Volume(hu, z0 + np.arange(9, dtype=np.float64) * spacing, (1.0, 1.0)))
    image = sitk.GetImageFromArray(hu.astype(np.float64))
    image.SetSpacing((1, 1, spacing))
    grid = sitk.Image(5, 4, len(found.hu), sitk.sitkFloat64)
    oracle = sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear))
    assert len(found.hu) == int(8 * spacing) + 1
    assert np.abs(found.hu - oracle).max() <= 0.5 + 1e-3


def test_uneven_spacing_as_numpy() -> None:
    rng = np.random.default_rng(2)
    z = np.cumsum(rng.uniform(0.3, 4, 12)) - 50
    hu = rng.integers(-1024, 3000, (12, 2, 3)).astype(np.int16)
    found = resample_z(Volume(hu, z, (1.0, 1.0)))
    for y, x in np.ndindex(2, 3):
        assert np.abs(found.hu[:, y, x] - np.interp(found.z_mm, z, hu[:, y, x])).max() <= 0.5 + 1e-2


def test_uneven_spacing_as_simpleitk() -> None:
    """SimpleITK has no uneven grids, so each pair of neighbouring slices is a separate image."""
    rng = np.random.default_rng(3)
    z = np.cumsum(rng.uniform(0.4, 5, 8)) - 20
    hu = rng.integers(-1024, 3000, (8, 4, 5)).astype(np.int16)
    found = resample_z(Volume(hu, z, (1.0, 1.0)))
    for value, position in zip(found.hu, found.z_mm, strict=True):
        below = min(int(np.searchsorted(z, position, side="right")) - 1, len(z) - 2)
        pair = sitk.GetImageFromArray(hu[below : below + 2].astype(np.float64))
        pair.SetSpacing((1, 1, z[below + 1] - z[below]))
        grid = sitk.Image(5, 4, 1, sitk.sitkFloat64)
        grid.SetOrigin((0, 0, position - z[below]))
        oracle = sitk.GetArrayFromImage(sitk.Resample(pair, grid, sitk.Transform(), sitk.sitkLinear))
        assert np.abs(value - oracle[0]).max() <= 0.5 + 1e-2


@st.composite
def volumes(draw: st.DrawFn) -> Volume:
    steps = draw(st.lists(st.integers(1, 700), min_size=1, max_size=12))  # hundredths of a mm
    z = (draw(st.integers(-50000, 50000)) + np.cumsum([0, *steps])) / 100
    values = draw(st.lists(st.integers(-32768, 32767), min_size=len(z), max_size=len(z)))
    return volume(z.tolist(), *values)


@given(volumes())
def test_grid(native: Volume) -> None:
    found = resample_z(native)
    assert found.z_mm[0] == native.z_mm[0]
    assert np.allclose(np.diff(found.z_mm), 1)
    assert found.z_mm[-1] <= native.z_mm[-1] + 1e-5
    assert found.z_mm[-1] + 1 > native.z_mm[-1]


@given(volumes())
def test_values_stay_between_their_neighbours(native: Volume) -> None:
    found = resample_z(native)
    for z, value in zip(found.z_mm, found.hu.ravel(), strict=True):
        above = min(int(np.searchsorted(native.z_mm, z)), len(native.z_mm) - 1)
        pair = native.hu.ravel()[max(above - 1, 0) : above + 1]
        assert pair.min() <= value <= pair.max()


@given(st.dictionaries(st.integers(0, 40), st.integers(-32768, 32767), min_size=2), st.integers(-5000, 5000))
def test_native_positions_are_exact(values: dict[int, int], shift: int) -> None:
    offsets = sorted(values)
    z = [shift / 10 + k for k in offsets]
    found = resample_z(volume(z, *(values[k] for k in offsets)))
    assert len(found.hu) == offsets[-1] - offsets[0] + 1
    assert [int(found.hu[k - offsets[0], 0, 0]) for k in offsets] == [values[k] for k in offsets]
