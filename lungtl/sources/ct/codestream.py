"""What a compressed frame says of its own size, read before a decoder allocates it."""

from __future__ import annotations

import struct

from lungtl.settings.errors import Refused
from lungtl.sources.ct.syntaxes import JPEG_2000, RLE

START_OF_FRAME = frozenset({0xC3, 0xF7})  # lossless JPEG, JPEG-LS
START_OF_SCAN, HUFFMAN_TABLE = 0xDA, 0xC4
END_OF_IMAGE = b"\xff\xd9"


def check_frame(frame: bytes, syntax: str, shape: tuple[int, int], bits_allocated: int) -> None:
    """Check that a frame decodes to one grey image of this size.

    Raises:
        Refused: it is of another size, cut short, or larger than its pixels could ever need.
    """
    if len(frame) > 2 * shape[0] * shape[1] * bits_allocated // 8 + 4096:
        raise undecodable()
    if syntax == RLE:
        return  # has no size of its own
    try:
        rows, columns, components, bits = _jpeg_2000(frame) if syntax in JPEG_2000 else _jpeg(frame)
    except (struct.error, IndexError):
        raise undecodable() from None
    if (rows, columns) != shape or components != 1 or not 0 < bits <= bits_allocated:
        raise Refused(
            f"is damaged: its compressed pixels are {rows} x {columns}, its header says {shape[0]} x {shape[1]}",
            "fetch the file again",
        )
    # Decoders fill up what is missing at the end with grey instead of failing.
    if not frame.rstrip(b"\0").endswith(END_OF_IMAGE):
        raise Refused("is damaged: its compressed pixels are cut short", "fetch the file again")


def _jpeg(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, components and bits of a JPEG or JPEG-LS image, from its frame header.

    Every segment is visited up to the pixels: GDCM ends the process when JPEG has no table where it looks for one.
    """
    segments: dict[int, int] = {}
    position = 2
    while START_OF_SCAN not in segments:
        if frame[position] != 0xFF:
            raise undecodable()
        segments[frame[position + 1]] = position + 4
        position += 2 + int(struct.unpack_from(">H", frame, position + 2)[0])
    frames = START_OF_FRAME & segments.keys()
    if len(frames) != 1 or (0xC3 in frames and HUFFMAN_TABLE not in segments):
        raise undecodable()
    bits, rows, columns, components = struct.unpack_from(">BHHB", frame, segments[min(frames)])
    return rows, columns, components, bits


def _jpeg_2000(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, components and bits of a JPEG 2000 codestream, from its SIZ segment."""
    if frame[:4] != b"\xff\x4f\xff\x51":
        raise undecodable()
    right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
    components, bits = struct.unpack_from(">HB", frame, 40)
    return bottom - top, right - left, components, (bits & 0x7F) + 1


def undecodable() -> Refused:
    """Say that compressed pixels are damaged."""
    return Refused("is damaged: its compressed pixels cannot be decoded", "fetch the file again")
