"""Hounsfield units of a series, and 1 mm slices."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from lungtl.settings.errors import Refused
from lungtl.sources.ct import encoding
from lungtl.sources.ct.elements import quiet_pydicom
from lungtl.sources.ct.series import Series
from lungtl.sources.ct.slice_file import SliceFile
from lungtl.sources.ct.volume_file import VolumeSlice, read_hu

INT16 = np.iinfo(np.int16)
SLICE_STEP_MM = 1.0
"""Between the slices that every model gets."""


@dataclass(frozen=True)
class Volume:
    """Voxels of one series."""

    hu: NDArray[np.int16]  # int16 [z, y, x], Hounsfield units
    z_mm: NDArray[np.float64]  # float64 [z], ascending true positions
    pixel_spacing_mm: tuple[float, float]  # (row, column)


def read_volume(series: Series) -> Volume:
    """Decode a series: HU = slope * stored + intercept of each slice, rounded; raises Refused."""
    hu = _allocate(len(series.files), series.shape)
    if volume_slices := [file for file in series.files if isinstance(file, VolumeSlice)]:
        read_hu(volume_slices, hu)
    with quiet_pydicom():
        for file, out in zip(series.files, hu, strict=True):
            if isinstance(file, SliceFile):
                _read_slice(file, out)
    return Volume(hu, series.z_mm, series.pixel_spacing_mm)


def resample_z(volume: Volume, step_mm: float = SLICE_STEP_MM) -> Volume:
    """Interpolate linearly at the true positions onto `regular_grid`, rounded; raises Refused if it is too large."""
    return interpolate_z(volume, regular_grid(volume.z_mm, step_mm))


def interpolate_z(volume: Volume, z_new: NDArray[np.float64]) -> Volume:
    """Interpolate linearly at the true positions onto slices at `z_new`, float64 [n], rounded; raises Refused."""
    out = _allocate(len(z_new), (volume.hu.shape[1], volume.hu.shape[2]))
    below = np.clip(np.searchsorted(volume.z_mm, z_new, side="right") - 1, 0, len(volume.z_mm) - 2)
    gap = volume.z_mm[below + 1] - volume.z_mm[below]
    weight = np.clip((z_new - volume.z_mm[below]) / gap, 0.0, 1.0).astype(np.float32)
    # float32 buffers of one slice are reused: new ones would take longer than the arithmetic
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


def regular_grid(z_mm: NDArray[np.float64], step_mm: float = SLICE_STEP_MM) -> NDArray[np.float64]:
    """Positions from the first native slice to at most the last, `step_mm` apart: float64 [n]."""
    count = int(np.floor((float(z_mm[-1]) - float(z_mm[0])) / step_mm + 1e-6)) + 1
    return np.arange(count, dtype=np.float64) * step_mm + float(z_mm[0])


def _allocate(n_slices: int, shape: tuple[int, int]) -> NDArray[np.int16]:
    try:
        return np.empty((n_slices, *shape), dtype=np.int16)
    except MemoryError:
        size = f"{n_slices} slices of {shape[0]} x {shape[1]}"
        raise Refused(f"{size} do not fit into memory", "use a machine with more memory") from None


def _read_slice(file: SliceFile, out: NDArray[np.int16]) -> None:
    """Write the HU of one slice into int16 [rows, columns], contiguous; raises Refused."""
    try:
        changed = Refused("has changed since its header was read", "rerun the command")
        if Path(file.path).stat().st_size != file.size:
            raise changed
        with encoding.open_dicom(Path(file.path)) as stream:
            pixels = encoding.find_pixels(stream, file.pixels.start, file.pixels.implicit, file.pixels.little_endian)
            if pixels != file.pixels:
                raise changed
            stream.seek(pixels.value)
            if file.syntax in encoding.UNCOMPRESSED:
                stored = _uncompressed(file, stream, out)
            else:
                stored = _decompressed(file, stream.read())
        _to_hu(_significant_bits(stored, file.bits_stored, file.signed), file, out)
    except Refused as refused:
        raise Refused(f"{file.name} {refused.reason}", refused.remedy) from None
    except OSError as error:
        raise Refused(f"{file.name} cannot be read ({error.strerror})", "check its permissions") from None


def _uncompressed(file: SliceFile, stream: io.BufferedReader | io.BytesIO, out: NDArray[np.int16]) -> NDArray[Any]:
    """Stored values, uint8 or uint16; 16 bits are read directly into `out`."""
    stored: NDArray[Any] = out.view(np.uint16) if file.bits_allocated == 16 else np.empty(file.shape, np.uint8)
    if stream.readinto(stored.data.cast("B")) != file.n_bytes:
        raise Refused("is truncated", encoding.COPY_AGAIN)
    return stored if file.pixels.little_endian else stored.byteswap(inplace=True)


def _decompressed(file: SliceFile, content: bytes) -> NDArray[Any]:
    """Stored values of a compressed slice, uint8 or uint16."""
    options: dict[str, Any] = {
        "decoding_plugin": encoding.PLUGINS[file.syntax],
        "rows": file.shape[0],
        "columns": file.shape[1],
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "photometric_interpretation": "MONOCHROME2",
        "bits_allocated": file.bits_allocated,
        "bits_stored": file.bits_stored,
        "pixel_representation": int(file.signed),
        "pixel_keyword": "PixelData",
    }
    try:
        frame = get_frame(content, 0, number_of_frames=1)
        encoding.check_frame(frame, file.syntax, file.shape, file.bits_allocated)
        stored, _ = get_decoder(UID(file.syntax)).as_array(content, index=0, **options)
    except Refused:
        raise
    except Exception:  # decoders raise whatever their C library does
        raise encoding.undecodable() from None
    if stored.shape != file.shape or stored.dtype.itemsize * 8 != file.bits_allocated:
        raise encoding.undecodable()
    return stored.view(np.uint16 if file.bits_allocated == 16 else np.uint8)


def _significant_bits(stored: NDArray[Any], bits_stored: int, signed: bool) -> NDArray[Any]:
    """The low `bits_stored` bits, int16 or uint16: old files store overlays in the bits above."""
    unused = stored.dtype.itemsize * 8 - bits_stored
    if signed:
        stored = stored.view(f"i{stored.dtype.itemsize}")
        if unused:  # in place: shift left, then back with the sign
            stored <<= unused
            stored >>= unused
    elif unused:
        stored &= (1 << bits_stored) - 1
    return stored.astype(np.int16) if stored.dtype.itemsize == 1 else stored


def _to_hu(stored: NDArray[Any], file: SliceFile, out: NDArray[np.int16]) -> None:
    slope, intercept = file.slope, file.intercept
    low, high = _hu_range(stored, slope, intercept)
    if not _is_int16(low, high):
        tissue = _not_padding(stored, file)
        low, high = _hu_range(stored[tissue], slope, intercept) if tissue.any() else (0.0, 0.0)
        if not _is_int16(low, high):
            raise Refused(f"has HU from {low:g} to {high:g}, outside int16", "check its rescale tags")
        out[...] = np.rint(np.where(tissue, stored * slope + intercept, INT16.min))
    elif slope == 1 and intercept.is_integer():
        # Modulo 2**16, which is exact because the results fit; no copy is made.
        np.add(stored.view(np.uint16), np.uint16(int(intercept) % 2**16), out=out.view(np.uint16))
    else:
        out[...] = np.rint(stored.astype(np.float64) * slope + intercept)


def _hu_range(stored: NDArray[Any], slope: float, intercept: float) -> tuple[float, float]:
    low, high = sorted(float(value) * slope + intercept for value in (stored.min(), stored.max()))
    return low, high


def _is_int16(low: float, high: float) -> bool:
    return bool(np.rint(low) >= INT16.min and np.rint(high) <= INT16.max)


def _not_padding(stored: NDArray[Any], file: SliceFile) -> NDArray[np.bool_]:
    """False where a pixel has a padding value: nothing was measured there."""
    if file.padding is None:
        return np.ones(stored.shape, dtype=bool)
    bits = np.array(file.padding, np.uint16).astype(np.uint16 if file.bits_allocated == 16 else np.uint8)
    low, high = sorted(_significant_bits(bits, file.bits_stored, file.signed).tolist())
    return np.asarray((stored < low) | (stored > high))
