"""Crop a chest CT to its lungs: one square in the plane for all slices, so that small nodules keep their pixels.

A field of view holds the arms, the table and air beside the patient. Resized to what a backbone sees, that costs
resolution where nodules are. The square errs on the large side: to lose a nodule is worse than to keep some wall.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import Refused
from lungtl.sources.ct.volume import Volume

AIR_HU = -400  # halfway between aerated lung and soft tissue
GRID_MM = 2.0  # the lungs are sought on every n-th pixel, at most this far apart
SLICE_GRID_MM = 5.0  # likewise for slices
MARGIN_MM = 15.0  # around the lungs: nodules at the pleura, and what lies between the samples
LEAST_SHARE = 0.1  # of the largest air space; smaller ones are bowel, oesophagus, noise
LEAST_AREA_CM2 = 80.0  # on the best slice: less than one adult lung, more than a stomach full of gas
REMEDY = "set dataset.crop=none, or give a series that shows the whole width of the chest"


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels, half-open: rows top..bottom - 1, columns left..right - 1."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left


def crop_to_lungs(volume: Volume) -> tuple[Volume, Box]:
    """Cut all slices to `lung_box`.

    Returns:
        The cropped volume, every slice kept, its `hu` a view of the given one's; and where it was cut.

    Raises:
        Refused: as `lung_box`.
    """
    box = lung_box(volume)
    return replace(volume, hu=volume.hu[:, box.top : box.bottom, box.left : box.right]), box


def lung_box(volume: Volume) -> Box:
    """Find the square around the lungs that serves every slice.

    Lungs are air that the body encloses within the slice (so neither outside air, nor padding, nor what lies in
    or under the table), less all spaces below a tenth of the largest, and what goes on from them on the next slice
    where the field of view cuts it. Their extent over all slices is joined with its mirror image about the body's
    middle, so that a collapsed or filled lung stays inside; then come a margin and the growth of the shorter side,
    both within the image.

    The square is one in mm, to the pixel. Where the image is too short for it in one direction, the box takes all
    of the image in that direction and is not square.

    Args:
        volume: slices of a chest, in any number and spacing.

    Raises:
        Refused: no lungs, as in an abdomen, a targeted field of view inside a lung, or a volume without voxels.
    """
    if volume.hu.size == 0:
        raise Refused(f"a volume of shape {volume.hu.shape} has no voxels", REMEDY)
    row_mm, column_mm = volume.pixel_spacing_mm
    slice_mm = float(np.median(np.diff(volume.z_mm))) if len(volume.z_mm) > 1 else SLICE_GRID_MM
    kept, rows, columns = (
        _thinned(count, spacing, grid)
        for count, spacing, grid in zip(
            volume.hu.shape, (slice_mm, row_mm, column_mm), (SLICE_GRID_MM, GRID_MM, GRID_MM), strict=True
        )
    )
    lungs, torso = _segment(volume.hu[np.ix_(kept, rows, columns)])
    pixels = volume.hu[0].size / lungs[0].size  # that one sample stands for
    area_cm2 = lungs.sum(axis=(1, 2)).max() * pixels * row_mm * column_mm / 100
    if area_cm2 < LEAST_AREA_CM2:
        raise Refused(
            f"no lungs found: the body encloses at most {area_cm2:.0f} cm2 of air on a slice, "
            f"lungs have {LEAST_AREA_CM2:.0f} or more",
            REMEDY,
        )
    return _square(lungs, torso, rows, columns, volume)


def _thinned(count: int, spacing_mm: float, grid_mm: float) -> NDArray[np.intp]:
    """Every n-th index, taken from the middle outwards: a flipped axis gives the flipped indices."""
    step = max(1, int(grid_mm / spacing_mm))
    lower = np.arange((count - 1) // 2, -1, -step)
    return np.union1d(lower, count - 1 - lower)


def _segment(hu: NDArray[np.int16]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Bool [z, y, x] twice: the lungs, and around them the body without its arms, the table and the clothes."""
    from scipy import ndimage

    plane = np.zeros((3, 3, 3), dtype=bool)
    plane[1] = ndimage.generate_binary_structure(2, 1)
    air = hu < AIR_HU
    # Opening removes the shell of the table, which would enclose air as the body does.
    spaces, count = ndimage.label(~ndimage.binary_opening(~air, plane), plane)
    border = np.ones(hu.shape[1:], dtype=bool)
    border[1:-1, 1:-1] = False
    outside = np.zeros(count + 1, dtype=bool)
    outside[spaces[:, border]] = True
    outside[0] = False  # the body itself may reach the border
    filled = ~outside[spaces]
    parts, _ = ndimage.label(air & filled)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    lungs = (sizes >= max(1, LEAST_SHARE * sizes.max()))[parts]
    sections, count = ndimage.label(filled, plane)
    around = np.zeros(count + 1, dtype=bool)
    around[sections[lungs]] = True
    return lungs | (air & _cut(spaces, outside, lungs)), around[sections]


def _cut(spaces: NDArray[np.integer[Any]], outside: NDArray[np.bool_], lungs: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Bool [z, y, x]: lung that the field of view cuts, so that it reaches the border as outside air does.

    It goes on from lung that is whole on the next slice: more than half of its space lies above or below such.
    """
    beside = np.zeros_like(lungs)
    beside[1:] |= lungs[:-1]
    beside[:-1] |= lungs[1:]
    areas = np.bincount(spaces.ravel(), minlength=len(outside))
    shared = np.bincount(spaces[beside], minlength=len(outside))
    cut: NDArray[np.bool_] = (outside & (2 * shared > areas))[spaces]
    return cut


def _square(
    lungs: NDArray[np.bool_],
    torso: NDArray[np.bool_],
    rows: NDArray[np.intp],
    columns: NDArray[np.intp],
    volume: Volume,
) -> Box:
    """The box around the samples that are lung; rows and columns say which pixels the samples are."""
    _, n_rows, n_columns = volume.hu.shape
    row_mm, column_mm = volume.pixel_spacing_mm
    weights = torso.sum(axis=(0, 1))
    middle = float(columns @ weights / weights.sum()) + 0.5
    _, in_rows, in_columns = lungs.nonzero()
    left, right = _mirrored(int(columns[in_columns.min()]), int(columns[in_columns.max()]) + 1, middle)
    left, right = _widened(left, right, column_mm, n_columns)
    top, bottom = _widened(int(rows[in_rows.min()]), int(rows[in_rows.max()]) + 1, row_mm, n_rows)
    side_mm = max((bottom - top) * row_mm, (right - left) * column_mm)
    top, bottom = _grown(top, bottom, round(side_mm / row_mm), n_rows)
    left, right = _grown(left, right, round(side_mm / column_mm), n_columns)
    return Box(top, bottom, left, right)


def _mirrored(low: int, high: int, middle: float) -> tuple[int, int]:
    """Join an interval with its mirror image about the middle."""
    return min(low, int(np.floor(2 * middle - high))), max(high, int(np.ceil(2 * middle - low)))


def _widened(low: int, high: int, spacing_mm: float, count: int) -> tuple[int, int]:
    """Add the margin to an interval, within 0..count."""
    margin = int(np.ceil(MARGIN_MM / spacing_mm))
    return max(low - margin, 0), min(high + margin, count)


def _grown(low: int, high: int, size: int, count: int) -> tuple[int, int]:
    """Grow an interval to a size about its middle, moved inwards where it would leave 0..count."""
    # Half a pixel too much goes towards the image's middle, so that a flipped image gives the flipped box. An
    # interval on the middle has no such side; with a size of the image's parity it has no half pixel either.
    size = min(size + (count - size) % 2, count)
    excess = low + high - size
    start = excess // 2 if low + high > count else -(-excess // 2)
    start = min(max(start, 0), count - size)
    return start, start + size
