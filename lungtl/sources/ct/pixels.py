"""From the stored values of one file to Hounsfield units."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import Refused
from lungtl.sources.ct.codestream import check_frame, undecodable
from lungtl.sources.ct.pixel_element import check_length, find_pixels
from lungtl.sources.ct.slice_file import SliceFile
from lungtl.sources.ct.stream import Stream, open_dicom
from lungtl.sources.ct.syntaxes import PLUGINS, UNCOMPRESSED

INT16 = np.iinfo(np.int16)


def read_hu(file: SliceFile, out: NDArray[np.int16]) -> None:
    """Write HU = slope * stored + intercept of one slice, rounded.

    pydicom must be kept quiet meanwhile, see `quiet_pydicom`.

    Args:
        file: the slice.
        out: int16 [rows, columns], contiguous.

    Raises:
        Refused: the file cannot be read, is damaged or was changed, or its HU exceed int16.
    """
    try:
        if Path(file.path).stat().st_size != file.size:
            raise Refused("has changed since its header was read", "run the command again")
        with open_dicom(Path(file.path)) as stream:
            pixels = find_pixels(stream, file.pixels.start, file.pixels.implicit, file.pixels.little_endian)
            if pixels != file.pixels:
                raise Refused("has changed since its header was read", "run the command again")
            if file.syntax in UNCOMPRESSED:
                check_length(stream, pixels, False, file.n_bytes)
                stored = _native(file, stream, out)
            else:
                stored = _decoded(file, stream)
        _to_hu(_significant(stored, file.bits_stored, file.signed), file.slope, file.intercept, out)
    except Refused as refused:
        raise Refused(f"{file.name} {refused.reason}", refused.remedy) from None
    except OSError as error:
        raise Refused(f"{file.name} cannot be read ({error.strerror})", "check its permissions") from None


def _native(file: SliceFile, stream: Stream, out: NDArray[np.int16]) -> NDArray[Any]:
    """Uncompressed values, uint8 or uint16; 16 bits are read in place."""
    stored: NDArray[Any] = out.view(np.uint16) if file.bits_allocated == 16 else np.empty(file.shape, np.uint8)
    stream.seek(file.pixels.value)
    if stream.readinto(stored.data.cast("B")) != file.n_bytes:
        raise Refused("is damaged: its pixels are cut short", "fetch the file again")
    return stored if file.pixels.little_endian else stored.byteswap(inplace=True)


def _decoded(file: SliceFile, stream: Stream) -> NDArray[Any]:
    """Decompressed values, uint8 or uint16."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    stream.seek(file.pixels.value)
    content = stream.read()
    options: dict[str, Any] = {
        "decoding_plugin": PLUGINS[file.syntax],
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
        check_frame(frame, file.syntax, file.shape, file.bits_allocated)
        stored, _ = get_decoder(UID(file.syntax)).as_array(content, index=0, **options)
    except Refused:
        raise
    except Exception:  # decoders raise whatever their C library does
        raise undecodable() from None
    if stored.shape != file.shape or stored.dtype.itemsize * 8 != file.bits_allocated:
        raise undecodable()
    return stored.view(np.uint16 if file.bits_allocated == 16 else np.uint8)


def _significant(stored: NDArray[Any], bits_stored: int, signed: bool) -> NDArray[Any]:
    """The low `bits_stored` bits as numbers, int16 or uint16: old files keep overlays in the bits above."""
    unused = stored.dtype.itemsize * 8 - bits_stored
    if signed:
        stored = stored.view(f"i{stored.dtype.itemsize}")
        if unused:  # in place: up, then down again with the sign
            stored <<= unused
            stored >>= unused
    elif unused:
        stored &= (1 << bits_stored) - 1
    return stored.astype(np.int16) if stored.dtype.itemsize == 1 else stored


def _to_hu(stored: NDArray[Any], slope: float, intercept: float, out: NDArray[np.int16]) -> None:
    low, high = sorted(float(value) * slope + intercept for value in (stored.min(), stored.max()))
    if not (np.rint(low) >= INT16.min and np.rint(high) <= INT16.max):
        raise Refused(f"has HU from {low:g} to {high:g}, which exceed int16", "check its rescale tags")
    if slope == 1 and intercept.is_integer():
        # Modulo 2**16, which is right because the results fit; no copy is made.
        np.add(stored.view(np.uint16), np.uint16(int(intercept) % 2**16), out=out.view(np.uint16))
    else:
        out[...] = np.rint(stored.astype(np.float64) * slope + intercept)
