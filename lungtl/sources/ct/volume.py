"""From a series to Hounsfield units, and from native slices to 1 mm slices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungtl.errors import Refused
from lungtl.sources.ct.series import Series, said

INT16 = np.iinfo(np.int16)


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
        Refused: pixels that are damaged, cannot be decoded here, exceed int16 as HU, or exceed the memory.
    """
    try:
        hu = np.empty((len(series.files), *series.shape), dtype=np.int16)
    except MemoryError as error:
        raise Refused(f"does not fit into memory ({said(error)})", "use a larger machine") from error
    for index, file in enumerate(series.files):
        hu[index] = _read_hu(Path(file.path), series.shape)
    return Volume(hu, series.z_mm, series.pixel_spacing_mm)


def resample_z(volume: Volume, step_mm: float = 1.0) -> Volume:
    """Interpolate linearly onto a regular grid that starts at the first slice.

    The true positions are used, so uneven spacing is right; the last grid slice is the last one not beyond the
    last native slice. Values are rounded to whole HU.

    Args:
        volume: native slices, ascending.
        step_mm: distance of the new slices.
    """
    z0, z1 = float(volume.z_mm[0]), float(volume.z_mm[-1])
    count = int(np.floor((z1 - z0) / step_mm + 1e-6)) + 1
    z_new = np.arange(count, dtype=np.float64) * step_mm + z0
    below = np.clip(np.searchsorted(volume.z_mm, z_new, side="right") - 1, 0, len(volume.z_mm) - 2)
    gap = volume.z_mm[below + 1] - volume.z_mm[below]
    weight = np.clip((z_new - volume.z_mm[below]) / gap, 0.0, 1.0).astype(np.float32)
    out = np.empty((count, *volume.hu.shape[1:]), dtype=np.int16)
    for k in range(count):  # slice by slice: float copies of one slice, not of the volume
        low, high, w = volume.hu[below[k]], volume.hu[below[k] + 1], weight[k]
        if w == 0:
            out[k] = low
        elif w == 1:
            out[k] = high
        else:
            out[k] = np.rint(low * (np.float32(1) - w) + high * w)
    return Volume(out, z_new, volume.pixel_spacing_mm)


def _read_hu(path: Path, shape: tuple[int, int]) -> NDArray[np.int16]:
    """int16 [H, W] of one file."""
    import pydicom

    try:
        dataset = pydicom.dcmread(path)
        stored = _decode(dataset, path.name)
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
    except Refused:
        raise
    except OSError as error:
        raise Refused(f"{path.name} cannot be read ({error.strerror})", "check its permissions") from error
    except Exception as error:
        raise Refused(f"{path.name} is damaged ({said(error)})", "fetch the series again") from error
    if stored.shape != shape:
        raise Refused(f"{path.name} holds {stored.shape} pixels, its header says {shape}", "fetch it again")
    if not (np.isfinite(slope) and np.isfinite(intercept)) or slope == 0:
        raise Refused(f"{path.name}: rescale slope {slope}, intercept {intercept}", "mend the header")
    hu = np.rint(stored.astype(np.float64) * slope + intercept)
    if not (hu.min() >= INT16.min and hu.max() <= INT16.max):  # NaN is refused too
        raise Refused(f"{path.name}: HU from {hu.min():g} to {hu.max():g} exceed int16", "check the rescale tags")
    return hu.astype(np.int16)


def _decode(dataset: Any, name: str) -> NDArray[Any]:
    """The stored values; raises Refused when this machine has no decoder for the file's compression."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed and not get_decoder(syntax).is_available:
        raise Refused(
            f"{name} is compressed ({syntax.name}) and no decoder is installed",
            "pip install 'lungtl[compressed]'",
        )
    return np.asarray(dataset.pixel_array)
