"""Read images and ids from an .npz file."""

from __future__ import annotations

import math
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError
from lungtl.settings.nearest import nearest

UNREADABLE = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError)


# Reading one image unpacks the whole array, so each process does this once; a changed file is read again.
@lru_cache(maxsize=1)
def read_images(path: Path, key: str | None, mtime_ns: int, size: int) -> NDArray[Any]:
    """Read the images, [N, H, W] or [N, S, H, W], read-only; mtime_ns and size are part of the key of the cache."""
    arrays = _headers(path)
    images = [k for k, (shape, dtype) in arrays.items() if len(shape) in (3, 4) and dtype.kind in "iuf"]
    if (key is None and len(images) != 1) or (key is not None and key not in images):
        found = ", ".join(f"{k} {dtype} {shape}" for k, (shape, dtype) in arrays.items()) or "nothing"
        expected = "one numeric array [N, H, W] or [N, S, H, W]" + (f" named {key}" if key else "")
        raise LungtlError(f"{path.name} contains {found}; expected {expected}: set dataset.images_key")
    array = read_array(path, key or images[0])
    if array.size == 0:
        raise LungtlError(f"array {key or images[0]} of {path.name} has shape {array.shape}, which has no pixels")
    if len(array) and _has_colour(array.shape):
        raise LungtlError(
            f"array {key or images[0]} of {path.name} has shape {array.shape}, whose last axis looks like colour; "
            "expected grey images [N, H, W] or [N, S, H, W]: save one channel"
        )
    array.flags.writeable = False
    return array


def _has_colour(shape: tuple[int, ...]) -> bool:
    """True if the last axis is 3 or 4 channels, or the single channel of [N, H, W, 1]; no scan is that narrow."""
    *_, height, width = shape
    return height > 1 and (width in (3, 4) or (width == 1 and len(shape) == 4))


def read_array(path: Path, key: str) -> NDArray[Any]:
    """Read one array, unless it cannot fit into memory; Python objects are never unpickled."""
    shape, dtype = _headers(path).get(key, ((), np.dtype(np.int8)))
    if (size := math.prod(shape) * dtype.itemsize) > (memory := psutil.virtual_memory().total):
        raise LungtlError(
            f"array {key} of {path.name} has shape {shape}: {size / 1e9:.3g} GB, but this machine has "
            f"{memory / 1e9:.3g} GB of memory; split the file"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: NDArray[Any] = archive[key]
    except KeyError:
        raise LungtlError(f"{path.name} has no array {key}; {nearest(key, _headers(path))}") from None
    except (*UNREADABLE, MemoryError) as error:
        raise LungtlError(f"array {key} of {path} cannot be read ({error}); write it again") from error
    return array


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Name -> (shape, type) of each array, without reading its values."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    is_version_1 = np.lib.format.read_magic(file) == (1, 0)
                    formats = np.lib.format
                    read = formats.read_array_header_1_0 if is_version_1 else formats.read_array_header_2_0
                    shape, _, dtype = read(file)
                headers[name.removesuffix(".npy")] = (shape, dtype)
    except UNREADABLE as error:
        raise LungtlError(f"{path} is not a readable .npz file ({error}); write it with numpy.savez") from error
    return headers
