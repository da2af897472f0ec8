"""The field of view: the part of a slice that becomes an image of the network, and the resampling between the two.

Positions are continuous: pixel j of n reaches from j to j + 1, its centre is j + 0.5, and the centre of the slice n / 2
(torch's `align_corners=False`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungtl.settings.errors import LungtlError, Refused

Spacing = tuple[float, float]
"""Distance in mm between the centres of neighbouring rows, and of neighbouring columns; NaN if unknown."""
UNKNOWN_SPACING: Spacing = (math.nan, math.nan)
MOST = 2.0
"""A field of view may be this many times as large as the slice; outside, the slice's edge pixels are repeated."""

REMEDY = "give a smaller field (image.crop_mm, or image.size with image.pixel_mm)"
ROUNDING = 1e-6  # pixels


class FieldOfView(NamedTuple):
    """A rectangle, in pixels of the slice; it may exceed the slice."""

    top: float
    left: float
    height: float
    width: float

    @classmethod
    def in_mm(cls, mm: float, shape: tuple[int, int], spacing_mm: Spacing) -> FieldOfView:
        """A square of `mm` around the centre of a slice; raises Refused if the slice is too small for it."""
        if not all(math.isfinite(spacing) and spacing > 0 for spacing in spacing_mm):
            raise Refused(
                f"image.crop_mm={mm:g} requires the pixel spacing of the slices, which is {spacing_mm}",
                "give (row, column) in mm, or crop in pixels (image.crop)",
            )
        height, width = (mm / spacing for spacing in spacing_mm)
        if height > MOST * shape[0] or width > MOST * shape[1]:
            seen = " x ".join(f"{n * spacing:.1f}" for n, spacing in zip(shape, spacing_mm, strict=True))
            problem = f"is more than {MOST:g} times as large as the slices ({seen} mm)"
            raise Refused(f"image.crop_mm={mm:g} {problem}", REMEDY)
        return cls((shape[0] - height) / 2, (shape[1] - width) / 2, height, width)

    def box(self, shape: tuple[int, int], margin: int = 0) -> tuple[slice, slice]:
        """The rows and columns of a slice that it touches, and `margin` more on each side."""
        spans = ((self.top, self.height, shape[0]), (self.left, self.width, shape[1]))
        rows, columns = (
            slice(max(0, math.floor(start + ROUNDING) - margin), min(n, math.ceil(start + extent - ROUNDING) + margin))
            for start, extent, n in spans
        )
        return rows, columns

    def cut(self, slices: Tensor, size: int) -> tuple[Tensor, FieldOfView]:
        """Cut off the pixels that `resample` to `size` does not use.

        Returns:
            The rest of the slices, [..., h, w], and this field of view in it.
        """
        margin = math.ceil(max(self.height, self.width, size) / size)  # half a triangle's width
        rows, columns = self.box((slices.shape[-2], slices.shape[-1]), margin)
        return slices[..., rows, columns], self._replace(top=self.top - rows.start, left=self.left - columns.start)


def check_slices(mm: Sequence[float], bags: pd.DataFrame, name: str) -> None:
    """Raise LungtlError unless fields of view of `mm` can be cut out of the slices of all bags.

    Args:
        mm: sides of the squares; empty if none depends on the spacing.
        bags: `Store.bags`.
        name: of their store.
    """
    columns = ["bag_id", "height", "width", "row_spacing_mm", "column_spacing_mm"]
    unfit: dict[str, Refused] = {}
    for bag_id, height, width, *spacing_mm in bags[columns].itertuples(index=False):
        try:
            for side in mm:
                FieldOfView.in_mm(side, (height, width), (spacing_mm[0], spacing_mm[1]))
        except Refused as refused:
            unfit[bag_id] = refused
    if unfit:
        first, why = next(iter(unfit.items()))
        raise LungtlError(f"{len(unfit)} of {len(bags)} cases in {name} cannot be used, the first is {first}: {why}")


def resample(images: Tensor, field: FieldOfView, size: int) -> Tensor:
    """The field of view as a square of `size` pixels: float [..., H, W] -> [..., size, size].

    Bilinear, with a triangle as wide as a new pixel where it shrinks (torch's and Pillow's antialiasing).
    """
    rows = interpolation(images.shape[-2], field.top, field.height, size)
    columns = interpolation(images.shape[-1], field.left, field.width, size)
    return _apply(rows, images, columns)


def spread(maps: Tensor, field: FieldOfView, shape: tuple[int, int]) -> Tensor:
    """The inverse of `resample`: maps over the field of view, float [..., h, w], in slice pixels [..., H, W].

    Pixels whose centre is outside the field of view are 0.
    """
    matrices = []
    for cells, start, extent, n in (
        (maps.shape[-2], field.top, field.height, shape[0]),
        (maps.shape[-1], field.left, field.width, shape[1]),
    ):
        matrix = interpolation(cells, -start * cells / extent, n * cells / extent, n)
        centres = np.arange(n) + 0.5
        matrices.append(matrix * ((centres > start) & (centres < start + extent))[:, None])
    return _apply(matrices[0], maps, matrices[1])


def interpolation(source: int, start: float, extent: float, target: int) -> NDArray[np.float64]:
    """Weights of the source pixels in each of `target` pixels that divide [start, start + extent]: [target, source].

    Positions outside the source take its first or last pixel. Rows sum to 1.
    """
    step = extent / target
    centres = start + (np.arange(target) + 0.5) * step
    reach = max(step, 1.0)
    pixels = np.arange(math.floor(centres[0] - reach), math.ceil(centres[-1] + reach) + 1)
    triangles = np.maximum(0, 1 - np.abs(pixels + 0.5 - centres[:, None]) / reach)
    weights = np.zeros((target, source))
    np.add.at(weights.T, np.clip(pixels, 0, source - 1), triangles.T)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def _apply(rows: NDArray[np.float64], images: Tensor, columns: NDArray[np.float64]) -> Tensor:
    left, right = (torch.from_numpy(matrix).to(images.device, images.dtype) for matrix in (rows, columns.T))
    with torch.autocast(images.device.type, enabled=False):  # it would round images to half precision
        return left @ images @ right
