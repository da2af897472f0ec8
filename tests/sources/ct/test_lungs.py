"""Boxes around the lungs of drawn chests, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lungtl.settings.errors import Refused
from lungtl.sources.ct.lungs import Box, crop_to_lungs, lung_box
from lungtl.sources.ct.volume import Volume

PIXEL_MM = 2.5
SIZES = (0.3, 0.6, 0.85, 1.0, 1.0, 0.9, 0.7, 0.4)  # of the lungs' axes, from slice to slice
AIR, SOFT, LUNG = -1000, 40, -850


def sides(box: Box) -> tuple[int, int]:
    """Height and width in pixels."""
    return box.bottom - box.top, box.right - box.left


def draw(
    image: NDArray[np.int16], hu: int, centre: tuple[float, float], axes: tuple[float, float], mm: float = PIXEL_MM
) -> None:
    """Paint an ellipse of given centre and half axes (row, column), in pixels of 2.5 mm, into [H, W]."""
    y, x = np.indices(image.shape) * (mm / PIXEL_MM)
    image[((y - centre[0]) / axes[0]) ** 2 + ((x - centre[1]) / axes[1]) ** 2 <= 1] = hu


def chest(
    mm: float = PIXEL_MM, row: int = 76, column: int = 84, sizes: tuple[float, ...] = SIZES, pixels: int = 160
) -> Volume:
    """A body of 90 x 120 pixels of 2.5 mm with two lungs of 56 x 40, in a field of 400 mm.

    At their largest the lungs fill rows 48..104 and columns 36..76 and 92..132.
    """
    n = round(pixels * PIXEL_MM / mm)
    hu = np.full((len(sizes), n, n), AIR, dtype=np.int16)
    for image, size in zip(hu, sizes, strict=True):
        draw(image, SOFT, (row, column), (45, 60), mm)
        for side in (-28, 28):
            draw(image, LUNG, (row, column + side), (28 * size, 20 * size), mm)
    return Volume(hu, 5.0 * np.arange(len(sizes), dtype=np.float64), (mm, mm))


# Rows 48..104 and columns 36..132 with 6 pixels (15 mm) of margin are 69 x 109, and 110 has the image's parity.
# 110 columns about [30, 139) are [29, 139), not [30, 140), which is farther from the middle; 110 rows about
# [42, 111) are [22, 132).
BOX = Box(22, 132, 29, 139)


def changed(paint: NDArray[np.bool_] | tuple[slice, ...], hu: int, volume: Volume | None = None) -> Volume:
    volume = volume or chest()
    painted = volume.hu.copy()
    painted[paint] = hu
    return replace(volume, hu=painted)


def disc(centre: tuple[float, float], axes: tuple[float, float]) -> NDArray[np.bool_]:
    """Bool [1, H, W], to index all slices with."""
    image = np.zeros((160, 160), dtype=np.int16)
    draw(image, 1, centre, axes)
    return np.repeat(image[None] == 1, len(SIZES), axis=0)


def flipped(box: Box, n_rows: int, n_columns: int, rows: bool, columns: bool) -> Box:
    top, bottom = (n_rows - box.bottom, n_rows - box.top) if rows else (box.top, box.bottom)
    left, right = (n_columns - box.right, n_columns - box.left) if columns else (box.left, box.right)
    return Box(top, bottom, left, right)


# The box


def test_by_hand() -> None:
    assert lung_box(chest()) == BOX


@pytest.mark.parametrize("mm", [0.5, 0.625, 0.8, 1.0, 1.25])
def test_thinning_costs_less_than_two_millimetres(mm: float) -> None:
    """The lungs reach from 90 to 330 mm along the columns, which makes a side of 270 mm about 210 and 190 mm."""
    box = lung_box(chest(mm))
    found_mm = np.array([box.top, box.bottom, box.left, box.right]) * mm
    np.testing.assert_allclose(found_mm, [190 - 135, 190 + 135, 75, 345], atol=2 + mm)


@settings(max_examples=40)
@given(
    row=st.integers(50, 110),
    column=st.integers(40, 120),
    mm=st.sampled_from([0.7, 1.0, 1.3, 2.5]),
    shift=st.integers(0, 15),
    axes=st.sets(st.integers(0, 2)),
)
def test_a_flipped_chest_has_the_flipped_box(row: int, column: int, mm: float, shift: int, axes: set[int]) -> None:
    # Of odd or even width, lopsided, now and then cut by the field of view.
    volume = chest(mm, row, column, sizes=(0.5, 1.0, 0.8))
    volume = replace(volume, hu=volume.hu[:, : volume.hu.shape[1] - shift // 2, : volume.hu.shape[2] - shift])
    mirrored = replace(volume, hu=np.flip(volume.hu, tuple(axes)))
    expected = flipped(lung_box(volume), volume.hu.shape[1], volume.hu.shape[2], 1 in axes, 2 in axes)
    assert lung_box(mirrored) == expected


@given(
    row=st.integers(46, 114),  # the body is whole: cut to the lungs, it is refused
    column=st.integers(61, 99),
    spacing=st.tuples(st.sampled_from([0.5, 0.7, 2.5]), st.sampled_from([0.5, 0.7, 2.5])),
)
def test_a_square_within_the_image(row: int, column: int, spacing: tuple[float, float]) -> None:
    volume = replace(chest(row=row, column=column, sizes=(1.0,)), pixel_spacing_mm=spacing)
    try:
        box = lung_box(volume)
    except Refused:  # a small chest: less than 80 cm2
        assert spacing[0] * spacing[1] < 2
        return
    assert 0 <= box.top < box.bottom <= 160
    assert 0 <= box.left < box.right <= 160
    longest_mm = min(160 * spacing[0], 160 * spacing[1])
    height_mm, width_mm = np.multiply(sides(box), spacing)
    if max(height_mm, width_mm) < longest_mm - 2 * max(spacing):
        assert abs(height_mm - width_mm) <= 2 * max(spacing)


def test_square_in_millimetres() -> None:
    volume = chest()
    tall = replace(volume, hu=np.repeat(volume.hu, 2, axis=1), pixel_spacing_mm=(PIXEL_MM / 2, PIXEL_MM))
    box = lung_box(tall)
    assert (box.left, box.right) == (BOX.left, BOX.right)
    # 109 columns are 218 rows; the width then takes the parity of the image.
    assert sides(box) == (218, 110)


def test_an_image_too_small_for_the_square_is_not_cropped() -> None:
    volume = chest()
    # Rows 30..124: the body touches both borders, and 95 rows are less than 110.
    assert lung_box(replace(volume, hu=volume.hu[:, 30:125])) == Box(0, 95, BOX.left, BOX.right)


def test_a_square_that_would_leave_the_image_moves_inwards() -> None:
    volume = chest()
    assert lung_box(replace(volume, hu=volume.hu[:, 30:])) == Box(0, 110, BOX.left, BOX.right)


def test_every_slice_counts() -> None:
    # Half axes of 14 pixels along the columns: 42..126, 97 with the margin, 98 with the parity of 160.
    assert sides(lung_box(chest(sizes=(0.7,) * 9)))[1] == 98
    assert lung_box(chest(sizes=(0.7,) * 4 + (1.0,) + (0.7,) * 4)) == BOX


def test_one_slice_and_uneven_slices() -> None:
    assert lung_box(chest(sizes=(1.0,))) == BOX
    assert lung_box(replace(chest(), z_mm=np.array([0.0, 5, 10, 15, 20, 25, 30, 68]))) == BOX


@given(seed=st.integers(0, 2**32 - 1), sigma=st.floats(0, 120))
def test_noise_moves_no_edge_by_more_than_two_pixels(seed: int, sigma: float) -> None:
    volume = chest(sizes=(0.7, 1.0))
    noise = np.random.default_rng(seed).normal(0, sigma, volume.hu.shape)
    box = lung_box(replace(volume, hu=np.rint(volume.hu + noise).astype(np.int16)))
    np.testing.assert_allclose(
        [box.top, box.bottom, box.left, box.right], [BOX.top, BOX.bottom, BOX.left, BOX.right], atol=2
    )


# Not lung


def test_the_table_does_not_count() -> None:
    shell = disc((128, 80), (7, 75)) & ~disc((128, 80), (6, 74))  # hollow: it encloses air as a body does
    assert lung_box(changed(shell, 300)) == BOX
    # Touching the back, its remains move the middle of the body by less than a pixel.
    touching = lung_box(changed(disc((124, 80), (4, 75)) & ~disc((124, 80), (3, 74)), 300))
    assert (touching.top, touching.bottom) == (BOX.top, BOX.bottom)
    assert abs(touching.left - BOX.left) <= 1


@pytest.mark.parametrize("padding", [-1024, -2000, -3024])
def test_padding_outside_the_circle_does_not_count(padding: int) -> None:
    assert lung_box(changed(~disc((79.5, 79.5), (80, 80)), padding)) == BOX


def test_gas_elsewhere_does_not_count() -> None:
    assert lung_box(changed(disc((76, 139), (4, 2)), -1000)) == BOX  # next to the lungs
    assert lung_box(changed(disc((115, 84), (3, 6)), -1000)) == BOX  # behind them


def test_clothes_next_to_the_body_do_not_count() -> None:
    assert lung_box(changed(disc((76, 12), (10, 8)), -100)) == BOX


# Lung that must be inside


def test_nodules_at_the_pleura_are_inside() -> None:
    """30 mm wide where the lungs reach farthest, on all slices."""
    solid = disc((76, 38), (6, 6)) | disc((76, 130), (6, 6))
    box = lung_box(changed(solid, SOFT))
    assert box.left <= 32
    assert box.right >= 137


@pytest.mark.parametrize("first_row", [0, 35])  # from row 35 on, the body reaches the border
@pytest.mark.parametrize("side", [-28, 28])
def test_a_filled_lung_is_inside(side: int, first_row: int) -> None:
    volume = changed(disc((76, 84 + side), (28, 20)), SOFT)
    box = lung_box(replace(volume, hu=volume.hu[:, first_row:]))
    assert box.left <= 36 - 6
    assert box.right >= 133 + 6


def test_a_slice_with_an_open_chest_wall_does_not_count() -> None:
    opened = changed((slice(3, 4), slice(0, 70), slice(56, 60)), AIR)
    assert lung_box(changed((slice(3, 4), slice(0, 70), slice(110, 114)), AIR, opened)) == BOX


def test_two_connected_lungs() -> None:
    assert lung_box(changed((slice(3, 5), slice(60, 64), slice(60, 110)), LUNG)) == BOX


@pytest.mark.parametrize("order", [1, -1])
def test_a_lung_cut_off_by_the_field_of_view_reaches_the_border(order: int) -> None:
    """The image begins at column 33, where the first lung reaches on half of the slices."""
    hu = changed(disc((76, 84), (45, 60)), SOFT).hu
    for image, column in zip(hu, (62, 62, 62, 62, 48, 48, 48, 48), strict=True):
        draw(image, LUNG, (76, column), (28, 20))
        draw(image, LUNG, (76, 112), (28, 20))
    # Where it is complete it starts at column 42; from these slices alone the box would start at 36.
    box = lung_box(replace(chest(), hu=hu[::order, :, 33:]))
    assert box.left == 0
    assert box.right >= 133 - 33 + 6


# Cropping


def test_all_slices_are_cropped_without_a_copy() -> None:
    volume = chest()
    cropped, box = crop_to_lungs(volume)
    assert box == BOX
    np.testing.assert_array_equal(cropped.hu, volume.hu[:, 22:132, 29:139])
    assert np.shares_memory(cropped.hu, volume.hu)
    assert cropped.z_mm.tolist() == volume.z_mm.tolist()
    assert cropped.pixel_spacing_mm == volume.pixel_spacing_mm


# Refusals


@pytest.mark.parametrize("shape", [(0, 8, 8), (3, 0, 0)])
def test_no_voxels_are_refused(shape: tuple[int, int, int]) -> None:
    empty = Volume(np.zeros(shape, np.int16), np.arange(float(shape[0])), (1.0, 1.0))
    with pytest.raises(Refused, match=r"has no voxels; set dataset\.crop=none"):
        lung_box(empty)


def test_an_abdomen_is_refused() -> None:
    abdomen = changed(disc((76, 84), (45, 60)), SOFT)
    with pytest.raises(Refused) as caught:  # 400 pixels of 6.25 mm2 are gas
        lung_box(changed((slice(None), slice(50, 60), slice(80, 120)), -1000, abdomen))
    assert caught.value.reason == ("no lungs found: at most 25 cm2 of enclosed air on a slice, expected 80 or more")
    assert "dataset.crop=none" in caught.value.remedy


def test_a_field_of_view_inside_a_lung_is_refused() -> None:
    for rows, columns in ((slice(62, 90), slice(42, 70)), (slice(62, 90), slice(24, 52))):
        with pytest.raises(Refused, match="at most 0 cm2"):
            lung_box(replace(chest(), hu=chest().hu[2:6, rows, columns], z_mm=np.arange(4.0)))


@pytest.mark.parametrize("hu", [AIR, SOFT, LUNG])
def test_one_value_everywhere_is_refused(hu: int) -> None:
    with pytest.raises(Refused, match="at most 0 cm2"):
        lung_box(Volume(np.full((4, 40, 40), hu, np.int16), np.arange(4.0), (5.0, 5.0)))
