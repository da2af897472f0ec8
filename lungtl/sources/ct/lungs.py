"""Crop a chest CT to its lungs: one square for all slices, so that small nodules keep their pixels.

The field of view includes arms, table and air. Resizing all of it to the backbone's input size would cost resolution in
the lungs. The square is generous: losing a nodule is worse than keeping some chest wall.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungtl.settings.errors import Refused
from lungtl.sources.ct.volume import Volume

AIR_HU = -400  # halfway between aerated lung and soft tissue
GRID_MM = 2.0  # the lungs are segmented on every n-th pixel, at most this far apart
SLICE_GRID_MM = 5.0  # likewise for slices
COARSE_GRIDS_MM = (10.0, 4.0)  # of slices and pixels, only to find the lungs
MARGIN_MM = 15.0  # around the lungs, for nodules at the pleura and what is between the samples
LEAST_SHARE = 0.1  # of the largest air space; smaller ones are bowel, oesophagus or noise
LEAST_AREA_CM2 = 80.0  # on the best slice: less than one adult lung, more than a stomach full of gas
REMEDY = "set dataset.crop=none, or use a series that shows the whole width of the chest"


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels, half-open: rows top..bottom - 1, columns left..right - 1."""

    top: int
    bottom: int
    left: int
    right: int


def crop_to_lungs(volume: Volume) -> tuple[Volume, Box]:
    """Crop all slices to `lung_box`: the cropped volume (a view) and the box."""
    box = lung_box(volume)
    return replace(volume, hu=volume.hu[:, box.top : box.bottom, box.left : box.right]), box


def lung_box(volume: Volume) -> Box:
    """Find one square around the lungs for all slices.

    Lungs are air enclosed by the body within a slice (not the air around it, padding or the table), without air spaces
    below a tenth of the largest, plus their continuation on neighbouring slices where the field of view cuts them off.
    Their extent over all slices is joined with its mirror image about the middle of the body, so that a collapsed or
    filled lung is included. Then a margin is added and the shorter side is extended, both within the image.

    The square is measured in mm. If the image is too short in one direction, the box spans the image in that direction
    and is not square. Raises Refused if there are no lungs, as in an abdomen or a targeted field of view inside a lung.
    """
    if volume.hu.size == 0:
        raise Refused(f"a volume of shape {volume.hu.shape} has no voxels", REMEDY)
    slices, rows, columns = _samples(volume, SLICE_GRID_MM, GRID_MM)
    lungs, torso = _segment(volume.hu[np.ix_(slices, rows, columns)])
    area_cm2 = _area_cm2(lungs, volume)
    if area_cm2 < LEAST_AREA_CM2:
        found = f"at most {area_cm2:.0f} cm2 of enclosed air on a slice, expected {LEAST_AREA_CM2:.0f} or more"
        raise Refused(f"no lungs found: {found}", REMEDY)
    return _square(lungs, torso, rows, columns, volume)


def lung_area(volume: Volume) -> float:
    """The largest area of lung on a slice in cm2, roughly; 0 if there is none."""
    lungs, _ = _segment(volume.hu[np.ix_(*_samples(volume, *COARSE_GRIDS_MM))])
    return round(float(_area_cm2(lungs, volume)), 1)


def _samples(volume: Volume, slice_grid_mm: float, grid_mm: float) -> tuple[NDArray[np.intp], ...]:
    """The slices, rows and columns on which the lungs are segmented."""
    slice_mm = float(np.median(np.diff(volume.z_mm))) if len(volume.z_mm) > 1 else slice_grid_mm
    spacings, grids = (slice_mm, *volume.pixel_spacing_mm), (slice_grid_mm, grid_mm, grid_mm)
    return tuple(_sample(*each) for each in zip(volume.hu.shape, spacings, grids, strict=True))


def _area_cm2(lungs: NDArray[np.bool_], volume: Volume) -> float:
    """The largest area of sampled lung, bool [z, y, x], on a slice."""
    row_mm, column_mm = volume.pixel_spacing_mm
    pixels_per_sample = volume.hu[0].size / lungs[0].size
    return float(lungs.sum(axis=(1, 2)).max() * pixels_per_sample * row_mm * column_mm / 100)


def lung_planes(volume: Volume) -> tuple[int, int]:
    """The row and the column of the coronal and sagittal plane with the most lung; the middle ones if there is none."""
    places = _samples(volume, *COARSE_GRIDS_MM)
    lungs, _ = _segment(volume.hu[np.ix_(*places)])
    if not lungs.any():
        return volume.hu.shape[1] // 2, volume.hu.shape[2] // 2
    return int(places[1][lungs.sum(axis=(0, 2)).argmax()]), int(places[2][lungs.sum(axis=(0, 1)).argmax()])


def _sample(count: int, spacing_mm: float, grid_mm: float) -> NDArray[np.intp]:
    """Every n-th index, starting in the middle so that a flipped axis has the flipped indices."""
    step = max(1, int(grid_mm / spacing_mm))
    lower = np.arange((count - 1) // 2, -1, -step)
    return np.union1d(lower, count - 1 - lower)


def _segment(hu: NDArray[np.int16]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Bool [z, y, x] twice: the lungs, and the body around them without arms, table and clothes."""
    plane = np.zeros((3, 3, 3), dtype=bool)
    plane[1] = ndimage.generate_binary_structure(2, 1)
    air = hu < AIR_HU
    # Opening removes the shell of the table, which encloses air as well.
    spaces, count = ndimage.label(~ndimage.binary_opening(~air, plane), plane)
    border = np.ones(hu.shape[1:], dtype=bool)
    border[1:-1, 1:-1] = False
    outside = np.zeros(count + 1, dtype=bool)
    outside[spaces[:, border]] = True
    outside[0] = False  # the body itself may reach the border
    filled = ~outside[spaces]
    regions, _ = ndimage.label(air & filled)
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    lungs = (sizes >= max(1, LEAST_SHARE * sizes.max()))[regions]
    sections, count = ndimage.label(filled, plane)
    around = np.zeros(count + 1, dtype=bool)
    around[sections[lungs]] = True
    return lungs | (air & _cut_off(spaces, outside, lungs)), around[sections]


def _cut_off(
    spaces: NDArray[np.integer[Any]], outside: NDArray[np.bool_], lungs: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Lung that the field of view cuts off, bool [z, y, x]: more than half of its space is above or below lung."""
    adjacent = np.zeros_like(lungs)
    adjacent[1:] |= lungs[:-1]
    adjacent[:-1] |= lungs[1:]
    areas = np.bincount(spaces.ravel(), minlength=len(outside))
    shared = np.bincount(spaces[adjacent], minlength=len(outside))
    cut: NDArray[np.bool_] = (outside & (2 * shared > areas))[spaces]
    return cut


def _square(
    lungs: NDArray[np.bool_],
    torso: NDArray[np.bool_],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    volume: Volume,
) -> Box:
    """The box around the samples that are lung; rows and columns are the pixels of the samples."""
    _, n_rows, n_columns = volume.hu.shape
    row_mm, column_mm = volume.pixel_spacing_mm
    weights = torso.sum(axis=(0, 1))
    middle = float(columns @ weights / weights.sum()) + 0.5
    _, in_rows, in_columns = lungs.nonzero()
    left, right = int(columns[in_columns.min()]), int(columns[in_columns.max()]) + 1
    # joined with the mirror image about the middle
    left, right = min(left, int(np.floor(2 * middle - right))), max(right, int(np.ceil(2 * middle - left)))
    left, right = _add_margin(left, right, column_mm, n_columns)
    top, bottom = _add_margin(int(rows[in_rows.min()]), int(rows[in_rows.max()]) + 1, row_mm, n_rows)
    side_mm = max((bottom - top) * row_mm, (right - left) * column_mm)
    top, bottom = _extend(top, bottom, round(side_mm / row_mm), n_rows)
    left, right = _extend(left, right, round(side_mm / column_mm), n_columns)
    return Box(top, bottom, left, right)


def _add_margin(low: int, high: int, spacing_mm: float, count: int) -> tuple[int, int]:
    """Add the margin to an interval, within 0..count."""
    margin = int(np.ceil(MARGIN_MM / spacing_mm))
    return max(low - margin, 0), min(high + margin, count)


def _extend(low: int, high: int, size: int, count: int) -> tuple[int, int]:
    """Extend an interval to a size about its middle, and move it to stay within 0..count."""
    # An odd half pixel goes towards the middle of the image, so that a flipped image has the flipped box. A centred
    # interval has no such side; its size has the parity of the image, so that there is no half pixel.
    size = min(size + (count - size) % 2, count)
    excess = low + high - size
    start = excess // 2 if low + high > count else -(-excess // 2)
    start = min(max(start, 0), count - size)
    return start, start + size
