"""How dense a nodule is: one number of a crop that a reader has centred on it and measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PERCENTILE = 98.0  # calcification is what it is sensitive to; the maximum would be a single noisy voxel


def greatest_density(
    crops: Sequence[NDArray[np.int16]], spacing_mm: tuple[float, float], diameters_mm: Sequence[float]
) -> float:
    """`central_density` of the densest of a bag's nodules, each with its crop and diameter; NaN if one is unknown."""
    pairs = zip(crops, diameters_mm, strict=True)
    return float(np.max([central_density(crop, spacing_mm, diameter) for crop, diameter in pairs]))


def central_density(voxels: NDArray[np.int16], spacing_mm: tuple[float, float], diameter_mm: float) -> float:
    """The 98th percentile of the voxels in a disc of the nodule's diameter around the centre of every slice.

    Args:
        voxels: int16 [S, H, W], HU or grey values, the nodule at (H - 1) / 2, (W - 1) / 2 of each slice.
        spacing_mm: (row, column) spacing.
        diameter_mm: of the nodule.

    Returns:
        In the units of the voxels; NaN if spacing or diameter are unknown or not positive.
    """
    if not (np.isfinite([*spacing_mm, diameter_mm]).all() and min(*spacing_mm, diameter_mm) > 0):
        return float("nan")
    rows, columns = ((np.arange(n) - (n - 1) / 2) * step for n, step in zip(voxels.shape[1:], spacing_mm, strict=True))
    distance = np.hypot(rows[:, None], columns)
    disc = distance <= max(diameter_mm / 2, distance.min())  # of a nodule below a voxel, the voxels at the centre
    return float(np.percentile(voxels[:, disc], PERCENTILE))
