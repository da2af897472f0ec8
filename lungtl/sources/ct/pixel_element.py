"""Where the stored values of a file lie and how they are encoded."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from lungtl.settings.errors import Refused

PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_PIXEL_DATA = (0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009)
UNDEFINED_LENGTH = 0xFFFFFFFF
TAIL_BYTES = 2**16  # of what follows the pixels, more than enough to tell what it is


@dataclass(frozen=True)
class PixelElement:
    """One PixelData element of a file.

    Attributes:
        start: offset of its tag in bytes.
        implicit: no value representation is written.
        little_endian: byte order.
        value: offset of its value.
        length: of the value in bytes; UNDEFINED_LENGTH where it is compressed.
    """

    start: int
    implicit: bool
    little_endian: bool
    value: int
    length: int


def find_pixels(stream: BinaryIO, start: int, implicit: bool, little_endian: bool) -> PixelElement:
    """Read the head of the PixelData element at an offset.

    Raises:
        Refused: there is none, or it holds floating point numbers.
    """
    stream.seek(start)
    head = stream.read(12)
    order = "<" if little_endian else ">"
    tag = struct.unpack_from(f"{order}HH", head) if len(head) == 12 else None
    if tag in (FLOAT_PIXEL_DATA, DOUBLE_PIXEL_DATA):
        raise Refused("has floating point pixels", "CT must have 8 or 16 bits a pixel")
    if tag != PIXEL_DATA:
        raise Refused("lacks PixelData", "fetch the file again")
    if implicit:
        return PixelElement(start, implicit, little_endian, start + 8, int(struct.unpack_from(f"{order}4xI", head)[0]))
    if head[4:6] not in (b"OB", b"OW"):
        raise Refused("has a damaged PixelData", "fetch the file again")
    return PixelElement(start, implicit, little_endian, start + 12, int(struct.unpack_from(f"{order}8xI", head)[0]))


def check_length(stream: BinaryIO, element: PixelElement, compressed: bool, n_bytes: int) -> None:
    """Raise Refused unless the element holds `n_bytes` of stored values, all of them in the file; or frames."""
    held = stream.seek(0, os.SEEK_END) - element.value
    if compressed:
        if element.length != UNDEFINED_LENGTH:
            raise Refused(
                "is damaged: its pixels are not in frames, its transfer syntax says so", "fetch the file again"
            )
        return
    if element.length != n_bytes + n_bytes % 2:  # DICOM pads to an even number
        claim = "an undefined number of" if element.length == UNDEFINED_LENGTH else element.length
        raise Refused(f"is damaged: {claim} bytes of pixels, its header wants {n_bytes}", "fetch the file again")
    if held < n_bytes:
        raise Refused(f"is damaged: cut short, {held} of {n_bytes} bytes of pixels are there", "fetch the file again")
    _check_end(stream, element)


def _check_end(stream: BinaryIO, element: PixelElement) -> None:
    """Raise Refused where what follows the pixels is no later element: a piece that stands twice has two PixelData."""
    stream.seek(element.value + element.length)
    tail = stream.read(TAIL_BYTES)
    if len(tail) >= 4 and tail.strip(b"\0"):  # some writers fill up with zeros
        tag = struct.unpack_from("<HH" if element.little_endian else ">HH", tail)
        if tag <= PIXEL_DATA:
            raise Refused("is damaged: earlier elements follow its pixels", "fetch the file again")
