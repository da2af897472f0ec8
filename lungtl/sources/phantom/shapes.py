"""Shapes in mm, as signed distances to their surface, and the fraction of a voxel that they cover.

x increases to the patient's left and y to the back, both from the centre of the scanner's field of view; z to the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Point = tuple[float, float, float]

NATIVE_MATRIX = 512  # all LIDC series are 512 x 512, and contours are in these pixels
PSF_MM = 1.0  # a scanner's in-plane blur
SUBSLICES = 3  # a slice is the mean of this many thinner ones
TINY = np.float32(1e-4)  # avoids a division by zero at the centre of an ellipse


@dataclass(frozen=True)
class Slab:
    """Voxel centres of some slices, one array per axis so that formulas broadcast."""

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

    def coverage(self, distance_mm: Floats) -> Floats:
        """Fraction 0..1 of each voxel inside a shape, from the signed distance to its surface."""
        fraction: Floats = np.clip(0.5 - distance_mm * np.float32(1 / self.edge_mm), 0, 1)
        return fraction


def make_slab(
    matrix: int,
    pixel_mm: float,
    z_mm: NDArray[np.float64],
    thickness_mm: float,
    centre_mm: tuple[float, float] = (0.0, 0.0),
) -> Slab:
    """`matrix` x `matrix` pixels around a centre (x, y), and slices at z_mm, float64 [S] ascending."""
    axis = (np.arange(matrix) - (matrix - 1) / 2) * pixel_mm
    x, y = ((axis + centre).astype(np.float32) for centre in centre_mm)
    z: Floats = z_mm.astype(np.float32)
    return Slab(x.reshape(1, 1, -1), y.reshape(1, -1, 1), z.reshape(-1, 1, 1), pixel_mm, thickness_mm)


def blend(hu: Floats, coverage: Floats, value: Floats | float) -> None:
    """Blend a tissue into an image in place (partial volume)."""
    hu += coverage * (value - hu)


def ellipse(x: Floats, y: Floats, a: Floats | float, b: Floats | float, power: float = 2.0) -> Floats:
    """Distance along the ray from the centre to a superellipse of half-axes a, b; `power` above 2 makes it squarer."""
    f = (np.abs(x / a) ** power + np.abs(y / b) ** power) ** np.float32(1 / power) + TINY
    distance: Floats = (np.sqrt(x * x + y * y) + TINY * a) * (1 - 1 / f)
    return distance


def ellipsoid(x: Floats, y: Floats, z: Floats, axes: Point) -> Floats:
    """Distance along the ray from the centre to an ellipsoid."""
    a, b, c = axes
    f = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2) + TINY
    distance: Floats = (np.sqrt(x * x + y * y + z * z) + TINY * a) * (1 - 1 / f)
    return distance


def smooth_min(a: Floats, b: Floats, width_mm: float) -> Floats:
    """Union of two shapes with a rounded seam."""
    h = np.maximum(width_mm - np.abs(a - b), 0)
    union: Floats = np.minimum(a, b) - h * h * np.float32(0.25 / width_mm)
    return union


def segment(x: Floats, y: Floats, z: Floats, start: Floats, end: Floats) -> tuple[Floats, Floats, float]:
    """Place along a segment of the nearest point, from 0 to 1; distance to it in mm; squared length in mm2."""
    axis = end - start
    length2 = float(axis @ axis) + 1e-6
    x, y, z = x - start[0], y - start[1], z - start[2]
    along = np.clip((x * axis[0] + (y * axis[1] + z * axis[2])) * np.float32(1 / length2), 0, 1)
    distance = np.sqrt((x - along * axis[0]) ** 2 + (y - along * axis[1]) ** 2 + (z - along * axis[2]) ** 2)
    return along, distance, length2


@dataclass(frozen=True)
class Tubes:
    """Tapered tubes with round ends."""

    start: Floats  # float32 [N, 3], x, y, z in mm
    end: Floats  # float32 [N, 3]
    start_radius: Floats  # float32 [N], mm
    end_radius: Floats  # float32 [N]


def polyline(points: list[Point], radii: list[float]) -> Tubes:
    """A tube through points, with a radius at each."""
    xyz, r = np.array(points, np.float32), np.array(radii, np.float32)
    return Tubes(xyz[:-1], xyz[1:], r[:-1], r[1:])


def tube_coverage(slab: Slab, tubes: Tubes) -> Floats:
    """Fraction 0..1 of each voxel inside any of the tubes, float32 [S, H, W]."""
    out = np.zeros(slab.shape, np.float32)
    half = slab.thickness_mm / 2
    reach = np.maximum(tubes.start_radius, tubes.end_radius)
    margin = np.stack([reach + slab.edge_mm, reach + slab.edge_mm, reach + half], axis=1)
    low = np.minimum(tubes.start, tubes.end) - margin
    high = np.maximum(tubes.start, tubes.end) + margin
    axes = (slab.x.ravel(), slab.y.ravel(), slab.z.ravel())
    first = np.stack([np.searchsorted(axis, low[:, i]) for i, axis in enumerate(axes)], axis=1)
    last = np.stack([np.searchsorted(axis, high[:, i], "right") for i, axis in enumerate(axes)], axis=1)
    steps = ((np.arange(SUBSLICES) + 0.5) / SUBSLICES - 0.5).astype(np.float32) * slab.thickness_mm
    edge = slab.edge_mm
    for i in np.flatnonzero((last > first).all(axis=1)):
        xs, ys, zs = (slice(int(a), int(b)) for a, b in zip(first[i], last[i], strict=True))
        start, end, r0, r1 = tubes.start[i], tubes.end[i], float(tubes.start_radius[i]), float(tubes.end_radius[i])
        z = slab.z[zs, None] + steps.reshape(1, -1, 1, 1)  # [S, SUBSLICES, 1, 1]
        along, distance, length2 = segment(slab.x[None, :, :, xs], slab.y[None, :, ys], z, start, end)
        # A tube thinner than a pixel fills part of it: along one axis if it runs within the slice, otherwise along two.
        upright = float(end[2] - start[2]) ** 2 / length2
        full = min(1.0, (r0 + r1) / edge) ** (1 + upright)
        inside = (r0 + (r1 - r0) * along - distance) * np.float32(1 / edge) + np.float32(0.5)
        part = out[zs, ys, xs]
        np.maximum(part, np.clip(inside, 0, full).mean(axis=1), out=part)
    return out
