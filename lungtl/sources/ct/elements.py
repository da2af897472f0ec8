"""The values of a DICOM header, decoded strictly from their bytes.

pydicom decodes leniently, and its errors quote the header. Here a value either has the form that DICOM defines or is
refused without being quoted, because any field may contain a person's name.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from lungtl.settings.errors import Refused
from lungtl.sources.ct.encoding import COPY_AGAIN

KEYWORDS = (
    "ImageType", "SOPClassUID", "SOPInstanceUID", "AcquisitionTime", "Modality", "Manufacturer", "IrradiationEventUID",
    "PatientName", "PatientID", "ContrastBolusAgent", "SliceThickness", "KVP", "ConvolutionKernel", "StudyInstanceUID",
    "SeriesInstanceUID", "SeriesNumber", "AcquisitionNumber", "InstanceNumber", "ImagePositionPatient",
    "ImageOrientationPatient", "FrameOfReferenceUID", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames",
    "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "RescaleType",
)  # fmt: skip
TAGS = {keyword: (int(Tag(keyword)), dictionary_VR(keyword)) for keyword in KEYWORDS}
"""The elements that are read: their tags and value representations."""
UNKNOWN_VR = "UN"  # written by some archives for elements they do not know
BLANK = b" \0"
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
NUMBER = re.compile(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *")
INTEGER = re.compile(r"[+-]?[0-9]{1,10}")
MAX_UID_LENGTH = 64
VENDORS = {
    "GE": r"\bge\b|general electric|imatron",
    "Siemens": r"siemens",
    "Philips": r"philips|picker|marconi|elscint",
    "Toshiba/Canon": r"toshiba|canon",
    "Hitachi": r"hitachi",
    "Neusoft": r"neusoft",
    "United Imaging": r"united imaging|\buih\b",
}


class Elements:
    """The elements of one header that are listed in TAGS, before pydicom has decoded them."""

    def __init__(self, dataset: Dataset) -> None:
        self._byte_order: Literal["little", "big"] = "little" if dataset.original_encoding[1] else "big"
        self._elements = {name: dataset.get_item(tag, keep_deferred=True) for name, (tag, _) in TAGS.items()}

    def has(self, name: str) -> bool:
        """True if the element is present and not empty."""
        value = self._bytes(name)
        return bool(value if TAGS[name][1] == "US" else value.strip(BLANK))

    def text(self, name: str) -> str:
        """Text; '' if it is missing. For comparisons, never for messages."""
        return self._bytes(name).strip(BLANK).decode("latin-1")

    def uid(self, name: str) -> str:
        """A UID; '' if it is missing. Raises Refused for text that is not a UID."""
        text = self.text(name)
        if text and not (len(text) <= MAX_UID_LENGTH and UID.fullmatch(text)):
            raise Refused(f"has an invalid {name}", f"fix the header: digits and dots, at most {MAX_UID_LENGTH}")
        return text

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """Decimal numbers. Raises Refused unless there are `count` finite numbers."""
        parts = self.text(name).split("\\")
        if len(parts) == count and all(NUMBER.fullmatch(part) for part in parts):
            values = tuple(float(part) for part in parts)
            if all(math.isfinite(value) for value in values):
                return values
        raise Refused(f"has an invalid {name}", f"fix the header: expected {count} decimal number(s)")

    def number(self, name: str) -> float:
        """One decimal number."""
        return self.numbers(name, 1)[0]

    def whole_number(self, name: str) -> int | None:
        """A decimal integer that only labels a slice; None, and no refusal, if it is missing or malformed."""
        text = self.lenient(name)
        return int(text) if INTEGER.fullmatch(text) else None

    def integer(self, name: str) -> int:
        """An unsigned 16-bit integer."""
        value = self._bytes(name)
        if len(value) != 2:
            raise Refused(f"has an invalid {name}", COPY_AGAIN)
        return int.from_bytes(value, self._byte_order)

    def lenient(self, name: str) -> str:
        """Text of an element that decides nothing; '' if it is missing or not of its form."""
        value = self._value(name)
        return value.strip(BLANK).decode("latin-1") if isinstance(value, bytes) else ""

    def digest(self, name: str) -> str:
        """A hash of the bytes of an element of any form, for comparisons; '' if it is missing or empty."""
        value = self._value(name)
        content = value.strip(BLANK) if isinstance(value, bytes) else repr(value or "").strip("'").encode()
        return hashlib.blake2b(content, digest_size=8).hexdigest() if content else ""

    def padding(self, name: str) -> int | None:
        """A padding value as its 16 bits, which are signed or not like the pixels; None if missing or malformed."""
        value = self._value(name)
        return int.from_bytes(value, self._byte_order) if isinstance(value, bytes) and len(value) == 2 else None

    def _value(self, name: str) -> Any:
        element = self._elements[name]
        return None if element is None else element.value

    def _bytes(self, name: str) -> bytes:
        element = self._elements[name]
        if element is None or not element.value:
            return b""
        if not isinstance(element.value, bytes) or element.VR not in (None, UNKNOWN_VR, TAGS[name][1]):
            raise Refused(f"has an invalid {name}", COPY_AGAIN)
        return element.value


def vendor(manufacturer: str) -> str:
    """Map a Manufacturer field, which is free text, to one of the names in VENDORS; 'other' or '' for no text."""
    for name, pattern in VENDORS.items():
        if re.search(pattern, manufacturer.lower()):
            return name
    return "other" if manufacturer else ""


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings and log messages: they quote header values, which may contain names."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
