"""Fields of view in mm, against scipy, Pillow, SimpleITK and torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates
from torch.nn import functional as F

from lungtl.data.bags import dihedral, turned
from lungtl.data.field_of_view import FieldOfView, check_slices, interpolation, resample, spread
from lungtl.data.windows import SlicePreprocessor
from lungtl.settings.errors import LungtlError

sitk: Any = SimpleITK
AS_IT_IS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
TOLERANCE = 1e-5  # of values from 0 to 1
ANISOTROPIC = (0.9, 0.6)


def grey(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


def resampled(image: NDArray[np.float32], mm: float, spacing_mm: tuple[float, float], size: int) -> Any:
    field = FieldOfView.in_mm(mm, image.shape, spacing_mm)
    return resample(torch.from_numpy(image), field, size).numpy()


def positions(n: int, mm: float, spacing_mm: float, size: int) -> NDArray[np.float64]:
    """Indices of the source pixels, as fractions, under the centres of the new pixels."""
    return (n - 1) / 2 + ((np.arange(size) + 0.5) / size - 0.5) * mm / spacing_mm


@pytest.mark.parametrize("mm", [16, 24.7, 43])  # of 45 x 38.4 mm: the last one exceeds the columns
def test_enlarging_is_scipys_linear_interpolation(mm: float) -> None:
    image = grey(50, 64)
    rows, columns = (positions(n, mm, s, 96) for n, s in zip(image.shape, ANISOTROPIC, strict=True))
    expected = map_coordinates(image.astype(np.float64), np.meshgrid(rows, columns, indexing="ij"), order=1,
                               mode="nearest")  # fmt: skip
    np.testing.assert_allclose(resampled(image, mm, ANISOTROPIC, 96), expected, atol=TOLERANCE)


def test_enlarging_is_simpleitks_linear_interpolation() -> None:
    image, mm, size = grey(50, 64), 30.0, 96
    source = sitk.GetImageFromArray(image)
    source.SetSpacing((ANISOTROPIC[1], ANISOTROPIC[0]))
    grid = sitk.Image(size, size, sitk.sitkFloat32)
    grid.SetSpacing((mm / size, mm / size))
    grid.SetOrigin(tuple(((n - 1) * s - mm * (1 - 1 / size)) / 2 for n, s in ((64, 0.6), (50, 0.9))))
    expected = sitk.GetArrayFromImage(sitk.Resample(source, grid, sitk.Transform(), sitk.sitkLinear))
    np.testing.assert_allclose(resampled(image, mm, ANISOTROPIC, size), expected, atol=TOLERANCE)


@pytest.mark.parametrize(("mm", "size"), [(150, 96), (170, 33), (60, 80)])  # the last: rows enlarged, columns shrunk
def test_shrinking_is_pillows_antialiasing(mm: float, size: int) -> None:
    image, spacing_mm = grey(220, 400), (0.95, 0.55)
    height, width = (mm / s for s in spacing_mm)
    top, left = 110 - height / 2, 200 - width / 2
    expected = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR,
                                             box=(left, top, left + width, top + height))  # fmt: skip
    np.testing.assert_allclose(resampled(image, mm, spacing_mm, size), np.asarray(expected), atol=TOLERANCE)


@pytest.mark.parametrize("size", [32, 96])
def test_the_whole_slice_is_torchs_antialiased_resize(size: int) -> None:
    image = torch.from_numpy(grey(64, 64))
    found = resample(image, FieldOfView(0, 0, 64, 64), size)
    expected = F.interpolate(image[None, None], (size, size), mode="bilinear", antialias=True)[0, 0]
    inside = slice(1, -1)  # at its edge torch normalises the triangle instead of repeating the last pixel
    torch.testing.assert_close(found[inside, inside], expected[inside, inside], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("start", "extent", "target"), [(-3.2, 9.1, 4), (2.5, 3, 20), (0, 12, 12), (-6, 24, 5)])
def test_weights_keep_constants_and_the_centre(start: float, extent: float, target: int) -> None:
    weights = interpolation(12, start, extent, target)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights, interpolation(12, 12 - start - extent, extent, target)[::-1, ::-1], atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "spacing_mm"), [((80, 80), (0.5, 0.5)), ((41, 70), (0.97, 0.62)), ((128, 33), (0.3, 1.2))]
)
def test_images_show_the_same_positions_at_every_spacing(
    shape: tuple[int, int], spacing_mm: tuple[float, float]
) -> None:
    """A voxel's value is its position in mm; a new pixel is 3 mm wide."""
    y, x = ((np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True))
    expected = np.array([-7.5, -4.5, -1.5, 1.5, 4.5, 7.5])
    rows = resampled(np.tile(y[:, None], shape[1]).astype(np.float32), 18, spacing_mm, 6)
    columns = resampled(np.tile(x, (shape[0], 1)).astype(np.float32), 18, spacing_mm, 6)
    # the centre of gravity of a triangle that is sampled at few pixels is not exactly its centre
    np.testing.assert_allclose(rows, np.tile(expected[:, None], 6), atol=0.05)
    np.testing.assert_allclose(columns, np.tile(expected, (6, 1)), atol=0.05)


def test_outside_the_slice_its_edge_is_repeated() -> None:
    image = grey(20, 20)
    padded = np.pad(image, 20, mode="edge")
    np.testing.assert_allclose(
        resampled(image, 30, (1, 1), 96), resampled(padded, 30, (1, 1), 96), atol=TOLERANCE
    )  # fmt: skip


def test_spread_places_a_map_back_where_it_was_cut() -> None:
    field = FieldOfView.in_mm(18, (41, 48), (0.75, 0.5))
    assert field == (8.5, 6, 24, 36)
    heat = spread(torch.ones(2, 6, 6), field, (41, 48)).numpy()
    expected = np.zeros((41, 48))
    expected[8:33, 6:42] = 1  # rows 8 and 32 by half: their centres are on the edge, within rounding
    np.testing.assert_allclose(heat[0][9:32], expected[9:32], atol=1e-6)
    assert not heat[:, :8].any()
    assert not heat[:, 33:].any()


def test_spread_is_torchs_enlargement_inside_a_crop_in_pixels() -> None:
    maps = torch.from_numpy(grey(5, 5))[None]
    expected = F.pad(F.interpolate(maps[None], (30, 30), mode="bilinear")[0], (4, 6, 10, 12))
    torch.testing.assert_close(spread(maps, FieldOfView(10, 4, 30, 30), (52, 40)), expected, atol=1e-6, rtol=0)


def frames(height: int = 60, width: int = 80, count: int = 2) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(-1400, 200, (count, 1, height, width), dtype=torch.int16, generator=random)


def preprocessor(*mm: float, size: int = 32, **changes: Any) -> SlicePreprocessor:
    return SlicePreprocessor(**({"windows": [(-600, 1500)], "neighbours": False, "size": size, "crop": None, **AS_IT_IS,
                                 "crop_mm": mm} | changes))  # fmt: skip


def test_windows_come_before_one_interpolation() -> None:
    slices = frames()
    window = ((slices.float() + 1350) / 1500).clamp(0, 1)
    field = FieldOfView.in_mm(25, (60, 80), ANISOTROPIC)
    images = preprocessor(25)(slices, ANISOTROPIC)
    torch.testing.assert_close(images, resample(window, field, 32).expand(2, 3, 32, 32), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("view", range(8))
def test_a_view_of_the_slices_is_a_view_of_the_images(view: int) -> None:
    slices, convert = frames(), preprocessor(30, size=48)
    found = convert(dihedral(slices, view), turned(ANISOTROPIC, view))
    torch.testing.assert_close(found, dihedral(convert(slices, ANISOTROPIC), view), atol=TOLERANCE, rtol=0)


def test_several_scales_are_neighbouring_images() -> None:
    slices = frames()
    small, large = (preprocessor(mm)(slices, ANISOTROPIC) for mm in (16, 32))
    both = preprocessor(16, 32)
    assert both.scales == 2
    assert torch.equal(both(slices, ANISOTROPIC), torch.stack([small, large], dim=1).flatten(0, 1))


def test_half_precision_of_training_does_not_round_the_images() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        images = preprocessor(25)(frames(), ANISOTROPIC)
    assert images.dtype == torch.float32
    assert torch.equal(images, preprocessor(25)(frames(), ANISOTROPIC))


def test_the_network_sees_the_largest_field() -> None:
    assert preprocessor(12, 24.2).box((60, 80), (0.5, 1.0)) == (slice(5, 55), slice(27, 53))
    assert preprocessor(36).box((60, 80), (0.5, 1.0)) == (slice(0, 60), slice(22, 58))
    assert preprocessor(crop=20).box((61, 80), (math.nan, math.nan)) == (slice(20, 40), slice(30, 50))


@pytest.mark.parametrize("spacing_mm", [(math.nan, math.nan), (0.7, 0.0), (0.7, math.inf)])
def test_slices_without_a_spacing_are_refused(spacing_mm: tuple[float, float]) -> None:
    with pytest.raises(LungtlError, match=r"image\.crop_mm=16 requires the pixel spacing of the slices"):
        preprocessor(16)(frames(), spacing_mm)


def test_a_field_of_view_up_to_twice_the_slice() -> None:
    preprocessor(60)(frames(), (0.5, 0.5))
    with pytest.raises(LungtlError, match=r"image\.crop_mm=61 is more than 2 times as large as the slices"):
        preprocessor(61)(frames(), (0.5, 0.5))


def bags(*spacings: tuple[float, float]) -> pd.DataFrame:
    row, column = zip(*spacings, strict=True)
    return pd.DataFrame({"bag_id": [f"b{i}" for i in range(len(row))], "height": 100, "width": 50,
                         "row_spacing_mm": row, "column_spacing_mm": column})  # fmt: skip


def test_a_store_is_checked_before_training() -> None:
    unknown = bags((0.5, 0.5), (math.nan, math.nan), (0.5, math.nan))
    with pytest.raises(
        LungtlError, match=r"2 of 3 cases in toy .*, the first is b1: image.crop_mm=16 requires the pixel spacing"
    ):
        check_slices([16, 32], unknown, "toy")
    with pytest.raises(
        LungtlError, match=r"1 of 2 cases in toy .* b1: .*crop_mm=32 is more than 2 times .* \(50.0 x 15.0 mm"
    ):
        check_slices([16, 32], bags((0.5, 0.5), (0.5, 0.3)), "toy")
    check_slices([16, 30], bags((0.5, 0.5), (0.5, 0.3)), "toy")
    check_slices([], unknown, "toy")
