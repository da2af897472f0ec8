"""Transfer syntax, PixelData and compressed frame of a DICOM file, checked before memory is allocated or decoded."""

from __future__ import annotations

import io
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import uid
from pydicom.pixels.decoders.base import get_decoder

from lungtl.settings.errors import Refused

DEFLATED = uid.DeflatedExplicitVRLittleEndian
UNCOMPRESSED = (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, DEFLATED, uid.ExplicitVRBigEndian)
JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)
JPEG = (uid.JPEGLossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEGLSNearLossless)
# One decoder per transfer syntax, so that a file has the same values on every machine.
PLUGINS: dict[str, str] = {uid.RLELossless: "pydicom", **dict.fromkeys((*JPEG, *JPEG_2000), "gdcm")}

COPY_AGAIN = "copy or download the file again"
PIXEL_DATA, FLOAT_PIXEL_DATA, DOUBLE_PIXEL_DATA = (0x7FE0, 0x0010), (0x7FE0, 0x0008), (0x7FE0, 0x0009)
UNDEFINED_LENGTH = 0xFFFFFFFF
TAIL_BYTES = 2**16  # read after the pixels, to identify what follows them
META_BYTES = 1024  # the file meta information is at the start of the file
MAX_INFLATED_BYTES = 2**28  # the largest accepted slice and its header
META_START, META_LENGTH = 132, b"\x02\x00\x00\x00UL\x04\x00"
SYNTAX_IS_DEFLATED = b"\x02\x00\x10\x00UI\x16\x00" + DEFLATED.encode()
SYNTAX_IS_EXPLICIT = b"\x02\x00\x10\x00UI\x16\x00" + uid.ExplicitVRLittleEndian.encode().ljust(len(DEFLATED), b"\0")
START_OF_FRAME = frozenset({0xC3, 0xF7})  # lossless JPEG, JPEG-LS
START_OF_SCAN, HUFFMAN_TABLE = 0xDA, 0xC4
END_OF_IMAGE = b"\xff\xd9"


def decoders() -> list[str]:
    """Compressed transfer syntaxes that the installed packages can decode: sorted UIDs."""
    return sorted(syntax for syntax in PLUGINS if _available(syntax))


def check_decodable(syntax: str) -> None:
    """Raise Refused if the installed packages cannot decode a transfer syntax."""
    if syntax in UNCOMPRESSED:
        return
    if syntax not in PLUGINS:
        raise Refused("has an unsupported transfer syntax", "convert it to Explicit VR Little Endian")
    if not _available(syntax):
        name = uid.UID(syntax).name
        raise Refused(f"is compressed ({name}) and no decoder is installed", "pip install 'lungtl[compressed]'")


def _available(syntax: str) -> bool:
    return any(plugin == PLUGINS[syntax] for plugin in get_decoder(uid.UID(syntax)).available_plugins)


def open_dicom(path: Path) -> io.BufferedReader | io.BytesIO:
    """Open a file for reading; a deflated dataset is inflated into memory, up to MAX_INFLATED_BYTES."""
    file = path.open("rb")
    head = file.read(META_BYTES)
    file.seek(0)
    if SYNTAX_IS_DEFLATED not in head:
        return file
    with file:
        return io.BytesIO(_inflate(file.read()))


def _inflate(content: bytes) -> bytes:
    """The same file without deflation. pydicom would inflate it as well, but without a limit."""
    if content[META_START : META_START + 8] != META_LENGTH:
        raise Refused("has invalid file meta information", COPY_AGAIN)
    start = META_START + 12 + int(struct.unpack_from("<I", content, META_START + 8)[0])
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        dataset = inflate.decompress(content[start:], MAX_INFLATED_BYTES)
    except zlib.error:
        raise Refused("has a damaged deflated dataset", COPY_AGAIN) from None
    if not inflate.eof:
        raise Refused(f"has a deflated dataset that is truncated or larger than {MAX_INFLATED_BYTES} bytes", COPY_AGAIN)
    return content[:start].replace(SYNTAX_IS_DEFLATED, SYNTAX_IS_EXPLICIT) + dataset


@dataclass(frozen=True)
class PixelElement:
    """The PixelData element of a file."""

    start: int  # byte offset of its tag
    implicit: bool  # implicit VR
    little_endian: bool  # byte order
    value: int  # byte offset of its value
    length: int  # of the value in bytes; UNDEFINED_LENGTH if compressed


def find_pixels(stream: BinaryIO, start: int, implicit: bool, little_endian: bool) -> PixelElement:
    """Read tag, VR and length of PixelData at an offset; raises Refused if there is none, or for floating point."""
    stream.seek(start)
    head = stream.read(12)
    order = "<" if little_endian else ">"
    tag = struct.unpack_from(f"{order}HH", head) if len(head) == 12 else None
    if tag in (FLOAT_PIXEL_DATA, DOUBLE_PIXEL_DATA):
        raise Refused("has floating point pixels", "convert it to 8 or 16 bits per pixel")
    if tag != PIXEL_DATA:
        raise Refused("has no PixelData", COPY_AGAIN)
    if not implicit and head[4:6] not in (b"OB", b"OW"):
        raise Refused("has an invalid PixelData", COPY_AGAIN)
    offset = 4 if implicit else 8
    length = int(struct.unpack_from(f"{order}I", head, offset)[0])
    return PixelElement(start, implicit, little_endian, start + offset + 4, length)


def check_length(stream: BinaryIO, element: PixelElement, compressed: bool, n_bytes: int) -> None:
    """Raise Refused unless the element contains `n_bytes` of stored values and the file all of them; or frames.

    Trailing padding is accepted (PS3.5, 8.1.1) if it cannot be pixels: less than one more image, all of one byte.
    """
    if compressed:
        if element.length != UNDEFINED_LENGTH:
            raise Refused("is damaged: a compressed transfer syntax, but PixelData is not encapsulated", COPY_AGAIN)
        return
    if not n_bytes <= element.length < 2 * n_bytes + n_bytes % 2 or element.length % 2:
        length = "an undefined number of" if element.length == UNDEFINED_LENGTH else element.length
        raise Refused(f"is damaged: {length} bytes of PixelData, the header requires {n_bytes}", COPY_AGAIN)
    available = stream.seek(0, os.SEEK_END) - element.value
    if available < n_bytes:
        raise Refused(f"is truncated: {available} of {n_bytes} bytes of PixelData", COPY_AGAIN)
    stream.seek(element.value + n_bytes)
    if element.length > n_bytes + 1 and len(set(stream.read(element.length - n_bytes))) > 1:
        excess = f"{element.length - n_bytes} bytes more than the header requires"
        raise Refused(f"is damaged: PixelData has {excess}, and they are not padding", COPY_AGAIN)
    _check_order(stream, element)


def _check_order(stream: BinaryIO, element: PixelElement) -> None:
    """Raise Refused if an earlier tag follows PixelData, as in a file with a duplicated part."""
    stream.seek(element.value + element.length)
    tail = stream.read(TAIL_BYTES)
    if len(tail) >= 4 and tail.strip(b"\0"):  # some writers pad with zeros
        tag = struct.unpack_from("<HH" if element.little_endian else ">HH", tail)
        if tag <= PIXEL_DATA:
            raise Refused("is damaged: elements out of order after PixelData", COPY_AGAIN)


def check_frame(frame: bytes, syntax: str, shape: tuple[int, int], bits_allocated: int) -> None:
    """Raise Refused unless a frame decodes to one grey image of this size and is neither truncated nor too long."""
    if len(frame) > 2 * shape[0] * shape[1] * bits_allocated // 8 + 4096:
        raise undecodable()
    if syntax == uid.RLELossless:
        return  # stores no size
    try:
        rows, columns, components, bits = _jpeg_2000(frame) if syntax in JPEG_2000 else _jpeg(frame)
    except (struct.error, IndexError):
        raise undecodable() from None
    if (rows, columns) != shape or components != 1 or not 0 < bits <= bits_allocated:
        sizes = f"{rows} x {columns}, the header {shape[0]} x {shape[1]}"
        raise Refused(f"is damaged: its compressed frame is {sizes}", COPY_AGAIN)
    # Decoders fill missing pixels with grey instead of failing.
    if not frame.rstrip(b"\0").endswith(END_OF_IMAGE):
        raise Refused("is damaged: its compressed frame is truncated", COPY_AGAIN)


def _jpeg(frame: bytes) -> tuple[int, int, int, int]:
    """Rows, columns, components and bits of a JPEG or JPEG-LS image, from its frame header."""
    # all segments before the pixels are visited: GDCM aborts the process if a JPEG has no Huffman table
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
    """The refusal of a damaged compressed frame."""
    return Refused("is damaged: its compressed frame cannot be decoded", COPY_AGAIN)
