"""What the header of a volume file says, and the values that the file stores."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import Refused
from lungtl.sources.ct.encoding import COPY_AGAIN


@dataclass(frozen=True)
class StoredVolume:
    """A volume as its file describes it, in patient coordinates (LPS) in mm; x is the axis stored fastest."""

    size: tuple[int, int, int]  # x, y, z
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]  # of the first voxel
    direction: tuple[tuple[float, float, float], ...]  # of the x, y and z axis: unit vectors
    dtype: str  # of numpy, with its byte order
    slope: float  # HU = slope * stored + intercept
    intercept: float
    path: str  # the file that contains the values
    offset: int  # of the first value in that file, in bytes, after decompression with gzip
    compression: Literal["none", "gzip", "zlib"]

    @property
    def n_bytes(self) -> int:
        """Size of all values."""
        return math.prod(self.size) * np.dtype(self.dtype).itemsize


def read_stored(stored: StoredVolume, first: int, count: int) -> NDArray[np.generic]:
    """The values of `count` slices from index `first`, [count, y, x]; raises Refused unless the file has them all."""
    start, length = first * (stored.n_bytes // stored.size[2]), count * (stored.n_bytes // stored.size[2])
    try:
        values = _read(stored, start, length)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise Refused("is damaged: its values cannot be decompressed", COPY_AGAIN) from None
    except OSError as error:
        raise Refused(f"cannot be read ({error.strerror})", "check its permissions") from None
    return np.frombuffer(values, stored.dtype).reshape(count, stored.size[1], stored.size[0])


def _read(stored: StoredVolume, start: int, length: int) -> bytes:
    """A part of the values. Compressed ones are read to the end, where their checksum is compared."""
    whole = stored.offset + stored.n_bytes
    with Path(stored.path).open("rb") as file:
        if stored.compression == "none":
            size = file.seek(0, io.SEEK_END)
            _check_size(size - stored.offset, stored.n_bytes)
            file.seek(stored.offset + start)
            return file.read(length)
        if stored.compression == "gzip":
            with gzip.GzipFile(fileobj=file) as inside:
                content = inside.read(whole + 1)
            _check_size(len(content) - stored.offset, stored.n_bytes)
            return content[stored.offset + start : stored.offset + start + length]
        file.seek(stored.offset)
        inflate = zlib.decompressobj()
        content = inflate.decompress(file.read(), stored.n_bytes + 1)
        _check_size(len(content), stored.n_bytes)
        if not inflate.eof:  # its checksum was not reached
            raise Refused("is damaged: its values cannot be decompressed", COPY_AGAIN)
        return content[start : start + length]


def _check_size(found: int, expected: int) -> None:
    if found != expected:
        seen = f"more than {expected}" if found > expected else str(max(0, found))
        raise Refused(f"is damaged: {seen} bytes of values, the header requires {expected}", COPY_AGAIN)
