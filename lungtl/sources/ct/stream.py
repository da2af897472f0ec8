"""Open a DICOM file so that its bytes can be sought, whatever its transfer syntax; pydicom kept quiet meanwhile."""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lungtl.settings.errors import Refused
from lungtl.sources.ct.syntaxes import DEFLATED, EXPLICIT_LITTLE

HEAD_BYTES = 1024  # the file meta information stands at the start
MAX_INFLATED_BYTES = 2**28  # the largest slice that is read, and room for its header
Stream = io.BufferedReader | io.BytesIO
META_START, META_LENGTH = 132, b"\x02\x00\x00\x00UL\x04\x00"
SYNTAX_IS_DEFLATED = b"\x02\x00\x10\x00UI\x16\x00" + DEFLATED.encode()
SYNTAX_IS_EXPLICIT = b"\x02\x00\x10\x00UI\x16\x00" + EXPLICIT_LITTLE.encode().ljust(len(DEFLATED), b"\0")


def open_dicom(path: Path) -> Stream:
    """Open a file for reading; one whose dataset is deflated is inflated into memory.

    Raises:
        OSError: the file cannot be opened.
        Refused: it is deflated, and damaged or larger than MAX_INFLATED_BYTES.
    """
    file = path.open("rb")
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if SYNTAX_IS_DEFLATED not in head:
        return file
    with file:
        return io.BytesIO(_inflated(file.read()))


def _inflated(content: bytes) -> bytes:
    """The same file, not deflated; pydicom would inflate it too, but without a bound."""
    if content[META_START : META_START + 8] != META_LENGTH:
        raise Refused("has damaged file meta information", "fetch the file again")
    start = META_START + 12 + int(struct.unpack_from("<I", content, META_START + 8)[0])
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        dataset = inflate.decompress(content[start:], MAX_INFLATED_BYTES)
    except zlib.error:
        raise Refused("has a damaged deflated dataset", "fetch the file again") from None
    if not inflate.eof:
        raise Refused(
            f"has a deflated dataset that is cut short or larger than {MAX_INFLATED_BYTES} bytes",
            "fetch the file again",
        )
    return content[:start].replace(SYNTAX_IS_DEFLATED, SYNTAX_IS_EXPLICIT) + dataset


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings and log lines: they quote header values, in which a name may stand."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
