"""The values of a DICOM header, decoded strictly from their bytes.

pydicom decodes leniently, and its errors quote what they met. Here a value has the one form that DICOM gives it, or it
is refused without being repeated: a name may stand in any field.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Literal

from lungtl.settings.errors import Refused

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

TAGS = {
    "ImageType": (0x00080008, "CS"),
    "SOPClassUID": (0x00080016, "UI"),
    "SOPInstanceUID": (0x00080018, "UI"),
    "Modality": (0x00080060, "CS"),
    "Manufacturer": (0x00080070, "LO"),
    "SliceThickness": (0x00180050, "DS"),
    "SeriesInstanceUID": (0x0020000E, "UI"),
    "ImagePositionPatient": (0x00200032, "DS"),
    "ImageOrientationPatient": (0x00200037, "DS"),
    "SamplesPerPixel": (0x00280002, "US"),
    "PhotometricInterpretation": (0x00280004, "CS"),
    "NumberOfFrames": (0x00280008, "IS"),
    "Rows": (0x00280010, "US"),
    "Columns": (0x00280011, "US"),
    "PixelSpacing": (0x00280030, "DS"),
    "BitsAllocated": (0x00280100, "US"),
    "BitsStored": (0x00280101, "US"),
    "HighBit": (0x00280102, "US"),
    "PixelRepresentation": (0x00280103, "US"),
    "RescaleIntercept": (0x00281052, "DS"),
    "RescaleSlope": (0x00281053, "DS"),
}
UNKNOWN_VR = "UN"  # what some archives write for an element that they do not know
BLANK = b" \0"
UID = re.compile(r"[0-9]+(\.[0-9]+)*")
NUMBER = re.compile(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *")
MAX_UID_LENGTH = 64


class Elements:
    """The elements of one header that TAGS names.

    Args:
        dataset: as pydicom read it, its values not yet accessed.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._byte_order: Literal["little", "big"] = "little" if dataset.original_encoding[1] else "big"
        # Looked up once, and not decoded by pydicom
        self._elements = {name: dataset.get_item(tag, keep_deferred=True) for name, (tag, _) in TAGS.items()}

    def has(self, name: str) -> bool:
        """True where the element is there and not empty."""
        value = self._bytes(name)
        return bool(value if TAGS[name][1] == "US" else value.strip(BLANK))

    def text(self, name: str) -> str:
        """Text; '' where it is missing. For comparisons, never for messages."""
        return self._bytes(name).strip(BLANK).decode("latin-1")

    def uid(self, name: str) -> str:
        """A UID; '' where it is missing.

        Raises:
            Refused: it is no UID.
        """
        text = self.text(name)
        if text and not (len(text) <= MAX_UID_LENGTH and UID.fullmatch(text)):
            raise Refused(f"has a {name} that is no UID", "mend the header: digits and dots, at most 64")
        return text

    def numbers(self, name: str, count: int) -> tuple[float, ...]:
        """Decimal numbers.

        Raises:
            Refused: they are not `count` finite numbers.
        """
        parts = self.text(name).split("\\")
        if len(parts) == count and all(NUMBER.fullmatch(part) for part in parts):
            values = tuple(float(part) for part in parts)
            if all(math.isfinite(value) for value in values):
                return values
        raise Refused(f"has a damaged {name}", f"mend the header: it must be {count} decimal number(s)")

    def whole(self, name: str) -> int:
        """An unsigned 16-bit number.

        Raises:
            Refused: it is not one.
        """
        value = self._bytes(name)
        if len(value) != 2:
            raise Refused(f"has a damaged {name}", "fetch the file again")
        return int.from_bytes(value, self._byte_order)

    def _bytes(self, name: str) -> bytes:
        element = self._elements[name]
        if element is None or not element.value:
            return b""
        if not isinstance(element.value, bytes) or element.VR not in (None, UNKNOWN_VR, TAGS[name][1]):
            raise Refused(f"has a damaged {name}", "fetch the file again")
        return element.value
