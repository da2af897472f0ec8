from __future__ import annotations

import math

import numpy as np
import pytest

from lungtl.sources.density import central_density


def test_only_the_disc_around_the_centre_counts() -> None:
    voxels = np.full((2, 21, 31), 3000, dtype=np.int16)
    voxels[:, 7:14, 12:19] = 40  # seven pixels a side around (10, 15), of 0.7 mm: more than a disc of 4 mm
    assert central_density(voxels, (0.7, 0.7), 4.0) == 40
    assert central_density(voxels, (0.7, 0.7), 6.0) == 3000  # the disc reaches beyond them


def test_rows_and_columns_have_their_own_spacing() -> None:
    voxels = np.zeros((1, 9, 9), dtype=np.int16)
    voxels[0, 4, 1] = 500  # three columns from the centre
    disc = {(1.0, 1.0): 29, (1.0, 2.0): 13}  # voxels within 3.1 mm
    for spacing, count in disc.items():
        inside = np.sort(np.array([500.0] + [0.0] * (count - 1) if spacing[1] == 1 else [0.0] * count))
        assert central_density(voxels, spacing, 6.2) == pytest.approx(np.percentile(inside, 98))


def test_it_is_the_98th_percentile_of_all_slices() -> None:
    voxels = np.arange(4 * 5 * 5, dtype=np.int16).reshape(4, 5, 5)
    assert central_density(voxels, (1, 1), 100.0) == pytest.approx(np.percentile(np.arange(100), 98))


def test_the_centre_of_an_even_crop_is_between_its_voxels() -> None:
    voxels = np.zeros((1, 4, 4), dtype=np.int16)
    voxels[0, 1:3, 1:3] = 100
    assert central_density(voxels, (1, 1), 0.2) == 100  # a nodule below a voxel: the four around the centre


@pytest.mark.parametrize(
    ("spacing", "diameter"), [((math.nan, 1.0), 5.0), ((1.0, 0.0), 5.0), ((1.0, 1.0), math.nan), ((1.0, 1.0), 0.0)]
)
def test_without_spacing_or_diameter_it_is_unknown(spacing: tuple[float, float], diameter: float) -> None:
    assert math.isnan(central_density(np.zeros((1, 5, 5), np.int16), spacing, diameter))
