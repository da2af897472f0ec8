"""From a series to Hounsfield units, and from native slices to 1 mm slices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import Refused
from lungtl.sources.ct.pixels import read_hu
from lungtl.sources.ct.series import Series
from lungtl.sources.ct.stack import check_voxels
from lungtl.sources.ct.stream import quiet_pydicom


@dataclass(frozen=True)
class Volume:
    """Voxels of one series.

    Attributes:
        hu: int16 [z, y, x], Hounsfield units.
        z_mm: float64 [z], ascending true positions.
        pixel_spacing_mm: (row, column).
    """

    hu: NDArray[np.int16]
    z_mm: NDArray[np.float64]
    pixel_spacing_mm: tuple[float, float]


def read_volume(series: Series) -> Volume:
    """Decode a series: HU = slope * stored + intercept, by each slice's own coefficients.

    Raises:
        Refused: pixels that are damaged or were changed, exceed int16 as HU, or exceed the memory.
    """
    hu = _allocate(len(series.files), series.shape)
    with quiet_pydicom():
        for file, out in zip(series.files, hu, strict=True):
            read_hu(file, out)
    return Volume(hu, series.z_mm, series.pixel_spacing_mm)


def resample_z(volume: Volume, step_mm: float = 1.0) -> Volume:
    """Interpolate linearly onto a regular grid that starts at the first slice.

    The true positions are used, so uneven spacing is right; the last grid slice is the last one not beyond the
    last native slice. Values are rounded to whole HU.

    Args:
        volume: native slices, ascending.
        step_mm: distance of the new slices.

    Raises:
        Refused: the result would exceed MAX_VOXELS or the memory.
    """
    z0, z1 = float(volume.z_mm[0]), float(volume.z_mm[-1])
    count = int(np.floor((z1 - z0) / step_mm + 1e-6)) + 1
    out = _allocate(count, (volume.hu.shape[1], volume.hu.shape[2]))
    z_new = np.arange(count, dtype=np.float64) * step_mm + z0
    below = np.clip(np.searchsorted(volume.z_mm, z_new, side="right") - 1, 0, len(volume.z_mm) - 2)
    gap = volume.z_mm[below + 1] - volume.z_mm[below]
    weight = np.clip((z_new - volume.z_mm[below]) / gap, 0.0, 1.0).astype(np.float32)
    # float32 buffers of one slice, used again for each: new ones cost more than the arithmetic
    low, high = np.empty((2, *volume.hu.shape[1:]), dtype=np.float32)
    for k, (index, w) in enumerate(zip(below, weight, strict=True)):
        if w == 0:
            out[k] = volume.hu[index]
        elif w == 1:
            out[k] = volume.hu[index + 1]
        else:
            np.multiply(volume.hu[index], np.float32(1) - w, out=low)
            np.multiply(volume.hu[index + 1], w, out=high)
            np.add(low, high, out=low)
            np.rint(low, out=low)
            out[k] = low
    return Volume(out, z_new, volume.pixel_spacing_mm)


def _allocate(n_slices: int, shape: tuple[int, int]) -> NDArray[np.int16]:
    check_voxels(n_slices, *shape)
    try:
        return np.empty((n_slices, *shape), dtype=np.int16)
    except MemoryError:
        raise Refused(
            f"{n_slices} slices of {shape[0]} x {shape[1]} do not fit into memory", "use a machine with more of it"
        ) from None
