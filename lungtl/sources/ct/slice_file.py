"""One CT slice as its file describes it, checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from lungtl.settings.errors import Refused
from lungtl.sources.ct.elements import Elements
from lungtl.sources.ct.files import printable
from lungtl.sources.ct.pixel_element import PixelElement
from lungtl.sources.ct.syntaxes import check_decodable
from lungtl.sources.ct.vendors import vendor

MAX_MATRIX = 8192  # a header that claims more is damaged, and would claim the memory too
MAX_POSITION_MM = 1e5  # no table is a hundred metres long
MAX_SPACING_MM = 100
ENHANCED_CT = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})
NEEDED = ("SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
          "RescaleSlope", "RescaleIntercept", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
          "BitsStored", "HighBit", "PixelRepresentation")  # fmt: skip
# Codes that messages may repeat; anything else in that field may be a name.
PHOTOMETRIC = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT",
                         "YBR_RCT"})  # fmt: skip
NEVER_GUESSED = "geometry and HU are never guessed: mend the header"


@dataclass(frozen=True)
class SliceFile:
    """Where one slice lies in space, and how its pixels lie in its file.

    Attributes:
        path: the file.
        size: of the file in bytes.
        sop_uid: SOPInstanceUID.
        position_mm: ImagePositionPatient (x, y, z).
        orientation: ImageOrientationPatient, six cosines.
        shape: (rows, columns).
        pixel_spacing_mm: (row, column) distance, as DICOM's PixelSpacing.
        slice_thickness_mm: NaN when the header does not say.
        manufacturer: see `vendor`.
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        syntax: transfer syntax UID.
        pixels: the PixelData element.
        bits_allocated: 8 or 16 bits a pixel.
        bits_stored: how many of them count, the low ones.
        signed: two's complement.
    """

    path: str
    size: int
    sop_uid: str
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    shape: tuple[int, int]
    pixel_spacing_mm: tuple[float, float]
    slice_thickness_mm: float
    manufacturer: str
    slope: float
    intercept: float
    syntax: str
    pixels: PixelElement
    bits_allocated: int
    bits_stored: int
    signed: bool

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return printable(Path(self.path).name)

    @property
    def n_bytes(self) -> int:
        """Bytes of its pixels, uncompressed."""
        return self.shape[0] * self.shape[1] * self.bits_allocated // 8


def check_kind(elements: Elements, syntax: str) -> None:
    """Raise Refused unless the header describes one grey slice that can be decoded here."""
    frames = elements.numbers("NumberOfFrames", 1)[0] if elements.has("NumberOfFrames") else 1
    if frames > 1 or elements.text("SOPClassUID") in ENHANCED_CT:
        raise Refused("is multi-frame", "convert it to one file a slice")
    if frames != 1:
        raise Refused(f"has NumberOfFrames {frames:g}, wanted 1", "mend the header")
    missing = [name for name in NEEDED if not elements.has(name)]
    if missing:
        raise Refused(f"lacks {', '.join(missing)}", NEVER_GUESSED)
    photometric = elements.text("PhotometricInterpretation")
    if photometric != "MONOCHROME2":
        shown = photometric if photometric in PHOTOMETRIC else "of no known code"
        raise Refused(f"has PhotometricInterpretation {shown}, wanted MONOCHROME2", "convert it to MONOCHROME2")
    _check_value("SamplesPerPixel", elements.whole("SamplesPerPixel"), (1,), "CT has one grey value a pixel")
    if not syntax:
        raise Refused("lacks TransferSyntaxUID", "the encoding is never guessed: mend the file meta information")
    check_decodable(syntax)


def read_slice(path: Path, size: int, elements: Elements, syntax: str, pixels: PixelElement) -> SliceFile:
    """Check every value that places the slice in space or turns its pixels into HU; raises Refused."""
    rows, columns = elements.whole("Rows"), elements.whole("Columns")
    if not (0 < rows <= MAX_MATRIX and 0 < columns <= MAX_MATRIX):
        raise Refused(f"claims {rows} x {columns} pixels", f"mend the header: at most {MAX_MATRIX} are read")
    row_mm, column_mm = elements.numbers("PixelSpacing", 2)
    if not (0 < row_mm < MAX_SPACING_MM and 0 < column_mm < MAX_SPACING_MM):
        raise Refused(
            f"has PixelSpacing {row_mm:g}, {column_mm:g} mm", f"mend the header: above 0, under {MAX_SPACING_MM}"
        )
    position = elements.numbers("ImagePositionPatient", 3)
    if max(map(abs, position)) > MAX_POSITION_MM:
        raise Refused(f"lies {max(map(abs, position)):g} mm from the origin", "mend its ImagePositionPatient")
    slope, intercept = elements.numbers("RescaleSlope", 1)[0], elements.numbers("RescaleIntercept", 1)[0]
    if slope == 0:
        raise Refused("has RescaleSlope 0", "mend the header")
    allocated, stored = elements.whole("BitsAllocated"), elements.whole("BitsStored")
    _check_value("BitsAllocated", allocated, (16,) if not pixels.little_endian else (8, 16),
                 "rewrite it with 16 bits a pixel")  # fmt: skip
    _check_value("BitsStored", stored, range(1, allocated + 1), f"mend the header: 1 to {allocated}")
    _check_value("HighBit", elements.whole("HighBit"), (stored - 1,), "rewrite it with the values in the low bits")
    representation = elements.whole("PixelRepresentation")
    _check_value("PixelRepresentation", representation, (0, 1), "mend the header")
    return SliceFile(
        path=os.fspath(path),
        size=size,
        sop_uid=elements.uid("SOPInstanceUID"),
        position_mm=position,
        orientation=elements.numbers("ImageOrientationPatient", 6),
        shape=(rows, columns),
        pixel_spacing_mm=(row_mm, column_mm),
        slice_thickness_mm=elements.numbers("SliceThickness", 1)[0] if elements.has("SliceThickness") else float("nan"),
        manufacturer=vendor(elements.text("Manufacturer")),
        slope=slope,
        intercept=intercept,
        syntax=syntax,
        pixels=pixels,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=representation == 1,
    )


def _check_value(name: str, value: int, allowed: range | tuple[int, ...], remedy: str) -> None:
    if value not in allowed:
        wanted = f"1 to {allowed[-1]}" if isinstance(allowed, range) else " or ".join(map(str, allowed))
        raise Refused(f"has {name} {value}, wanted {wanted}", remedy)
