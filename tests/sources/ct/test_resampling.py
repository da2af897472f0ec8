"""1 mm slices: by hand, against SimpleITK and numpy, and against themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from lungtl.sources.ct.volume import Volume, resample_z
from tests.sources.ct.test_volume import column

sitk: Any = SimpleITK


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
