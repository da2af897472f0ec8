"""Straight tubes on the voxel grid: vessels, airways, spicules."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lungtl.sources.phantom.grid import Floats, Grid

SUBSLICES = 3  # a slice is the mean of this many thinner ones


@dataclass(frozen=True)
class Tubes:
    """Tapered tubes with round ends."""

    start: Floats  # float32 [N, 3], x, y, z in mm
    end: Floats  # float32 [N, 3]
    start_radius: Floats  # float32 [N], mm
    end_radius: Floats  # float32 [N]

    def __getitem__(self, selected: np.ndarray) -> Tubes:
        return Tubes(self.start[selected], self.end[selected], self.start_radius[selected], self.end_radius[selected])

    def widened(self, extra_mm: float) -> Tubes:
        """The same axes with larger radii."""
        return Tubes(self.start, self.end, self.start_radius + extra_mm, self.end_radius + extra_mm)


def polyline(points: list[tuple[float, float, float]], radii: list[float]) -> Tubes:
    """A tube through points, with a radius at each."""
    xyz, r = np.array(points, np.float32), np.array(radii, np.float32)
    return Tubes(xyz[:-1], xyz[1:], r[:-1], r[1:])


def tube_coverage(grid: Grid, tubes: Tubes) -> Floats:
    """Fraction 0..1 of each voxel inside any of the tubes, float32 [S, H, W]."""
    out = np.zeros(grid.shape, np.float32)
    half = grid.thickness_mm / 2
    reach = np.maximum(tubes.start_radius, tubes.end_radius)
    margin = np.stack([reach + grid.edge_mm, reach + grid.edge_mm, reach + half], axis=1)
    low = np.minimum(tubes.start, tubes.end) - margin
    high = np.maximum(tubes.start, tubes.end) + margin
    axes = (grid.x.ravel(), grid.y.ravel(), grid.z.ravel())
    first = np.stack([np.searchsorted(axis, low[:, i]) for i, axis in enumerate(axes)], axis=1)
    last = np.stack([np.searchsorted(axis, high[:, i], "right") for i, axis in enumerate(axes)], axis=1)
    steps = ((np.arange(SUBSLICES) + 0.5) / SUBSLICES - 0.5).astype(np.float32) * grid.thickness_mm
    for i in np.flatnonzero((last > first).all(axis=1)):
        xs, ys, zs = (slice(int(a), int(b)) for a, b in zip(first[i], last[i], strict=True))
        box = (zs, ys, xs)
        part = out[box]
        np.maximum(part, _coverage_of_one(grid.crop(box), tubes, int(i), steps), out=part)
    return out


def _coverage_of_one(grid: Grid, tubes: Tubes, i: int, steps: Floats) -> Floats:
    a = tubes.start[i]
    axis = tubes.end[i] - a
    length2 = float(axis @ axis) + 1e-6
    x, y = grid.x[None] - a[0], grid.y[None] - a[1]
    z = grid.z[:, None] + steps.reshape(1, -1, 1, 1) - a[2]  # [S, SUBSLICES, 1, 1]
    along = np.clip((x * axis[0] + (y * axis[1] + z * axis[2])) * np.float32(1 / length2), 0, 1)
    distance = np.sqrt((x - along * axis[0]) ** 2 + (y - along * axis[1]) ** 2 + (z - along * axis[2]) ** 2)
    r0, r1 = float(tubes.start_radius[i]), float(tubes.end_radius[i])
    edge = grid.edge_mm
    # A tube thinner than a pixel fills part of it: along one axis if it runs within the slice, otherwise along two.
    upright = float(axis[2]) ** 2 / length2
    full = min(1.0, (r0 + r1) / edge) ** (1 + upright)
    inside = (r0 + (r1 - r0) * along - distance) * np.float32(1 / edge) + np.float32(0.5)
    mean: Floats = np.clip(inside, 0, full).mean(axis=1)
    return mean
