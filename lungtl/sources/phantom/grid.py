"""Voxel coordinates of a slab in mm, and the fraction of a voxel covered by a shape.

x increases to the patient's left and y to the back, both from the centre of the scanner's field of view; z to the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Box = tuple[slice, slice, slice]

PSF_MM = 1.0  # a scanner's in-plane blur
TINY = np.float32(1e-4)  # avoids a division by zero at the centre of an ellipse


@dataclass(frozen=True)
class Grid:
    """Voxel centres, one array per axis so that formulas broadcast."""

    x: Floats  # float32 [1, 1, W], mm
    y: Floats  # float32 [1, H, 1], mm
    z: Floats  # float32 [S, 1, 1], mm
    pixel_mm: float  # in-plane spacing
    thickness_mm: float  # extent along z that a slice averages

    @property
    def shape(self) -> tuple[int, int, int]:
        """(S, H, W)."""
        return self.z.size, self.y.size, self.x.size

    @property
    def edge_mm(self) -> float:
        """Width of a sharp edge in the image, from the pixel size and the scanner's blur."""
        return float(np.hypot(self.pixel_mm, PSF_MM))

    def box(self, low: tuple[float, float, float], high: tuple[float, float, float]) -> Box:
        """The voxels whose centres are between two corners (x, y, z)."""
        xs, ys, zs = (
            slice(int(np.searchsorted(axis.ravel(), a)), int(np.searchsorted(axis.ravel(), b, "right")))
            for axis, a, b in zip((self.x, self.y, self.z), low, high, strict=True)
        )
        return zs, ys, xs

    def crop(self, box: Box) -> Grid:
        """The part of the grid in a box."""
        zs, ys, xs = box
        return Grid(self.x[:, :, xs], self.y[:, ys], self.z[zs], self.pixel_mm, self.thickness_mm)

    def coverage(self, distance_mm: Floats) -> Floats:
        """Fraction 0..1 of each voxel inside a shape, from the signed distance to its surface."""
        fraction: Floats = np.clip(0.5 - distance_mm * np.float32(1 / self.edge_mm), 0, 1)
        return fraction


def make_grid(
    matrix: int,
    pixel_mm: float,
    z_mm: NDArray[np.float64],
    thickness_mm: float,
    centre_mm: tuple[float, float] = (0.0, 0.0),
) -> Grid:
    """A grid of `matrix` x `matrix` pixels around a centre (x, y) and slices at z_mm, float64 [S] ascending."""
    axis = (np.arange(matrix) - (matrix - 1) / 2) * pixel_mm
    x, y = ((axis + centre).astype(np.float32) for centre in centre_mm)
    z: Floats = z_mm.astype(np.float32)
    return Grid(x.reshape(1, 1, -1), y.reshape(1, -1, 1), z.reshape(-1, 1, 1), pixel_mm, thickness_mm)


def blend(hu: Floats, coverage: Floats, value: Floats | float) -> None:
    """Blend a tissue into an image in place (partial volume)."""
    hu += coverage * (value - hu)


def ellipse(x: Floats, y: Floats, a: Floats | float, b: Floats | float) -> Floats:
    """Signed distance along the ray from the centre to an ellipse of half-axes a, b; negative inside."""
    u, v = x / a, y / b
    f = np.sqrt(u * u + v * v) + TINY
    distance: Floats = (np.sqrt(x * x + y * y) + TINY * a) * (1 - 1 / f)
    return distance


def ellipsoid(x: Floats, y: Floats, z: Floats, axes: tuple[float, float, float]) -> Floats:
    """`ellipse` in three dimensions."""
    a, b, c = axes
    u, v, w = x / a, y / b, z / c
    f = np.sqrt(u * u + v * v + w * w) + TINY
    distance: Floats = (np.sqrt(x * x + y * y + z * z) + TINY * a) * (1 - 1 / f)
    return distance


def smooth_min(a: Floats, b: Floats, width_mm: float) -> Floats:
    """Union of two shapes with a rounded seam."""
    h = np.maximum(width_mm - np.abs(a - b), 0)
    union: Floats = np.minimum(a, b) - h * h * np.float32(0.25 / width_mm)
    return union
