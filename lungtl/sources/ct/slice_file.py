"""One CT slice as described by its file's header, checked."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lungtl.settings.errors import Refused
from lungtl.sources.ct.acquisition import contrast, kernel
from lungtl.sources.ct.elements import Elements, vendor
from lungtl.sources.ct.encoding import PixelElement, check_decodable
from lungtl.sources.ct.units import rescale_type
from lungtl.sources.files import printable

MAX_MATRIX = 8192  # larger values come from damaged headers and would exhaust the memory
MAX_POSITION_MM = 1e5
MAX_SPACING_MM = 100
ENHANCED_CT = frozenset({"1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2"})
REQUIRED = ("SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
            "RescaleSlope", "RescaleIntercept", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
            "BitsStored", "HighBit", "PixelRepresentation")  # fmt: skip
# Codes that may be quoted in messages; other text in this field might be a name.
PHOTOMETRIC = frozenset({"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT",
                         "YBR_RCT"})  # fmt: skip
FIX_HEADER = "fix the header"
# What shows that one SeriesInstanceUID contains more than one series: elements with one value in the whole series,
CONSTANT = ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "ConvolutionKernel")
# and those that may change along z, as from one rotation or breath-hold to the next, but not back and forth.
IN_SEQUENCE = ("AcquisitionNumber", "AcquisitionTime", "IrradiationEventUID", "SeriesNumber", "KVP", "ImageType",
               "SliceThickness")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One slice: its file, its position in space, and what the file says of its acquisition."""

    path: str  # the file
    size: int  # of the file in bytes
    position_mm: tuple[float, ...]  # ImagePositionPatient (x, y, z)
    orientation: tuple[float, ...]  # ImageOrientationPatient, six cosines
    shape: tuple[int, int]  # (rows, columns)
    pixel_spacing_mm: tuple[float, float]  # (row, column) distance, as in DICOM's PixelSpacing
    slope: float  # RescaleSlope
    intercept: float  # RescaleIntercept
    sop_uid: str = ""  # SOPInstanceUID
    slice_thickness_mm: float = math.nan  # NaN if the header has none
    manufacturer: str = ""  # see `acquisition`, also for the next two
    kernel: str = ""
    contrast: str = ""
    rescale_type: str = ""  # '', HU or US
    padding: tuple[int, int] | None = None  # PixelPaddingValue and PixelPaddingRangeLimit, each as its 16 bits
    instance_number: int | None = None  # InstanceNumber, which viewers show; None if it is missing or not an integer

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        return printable(Path(self.path).name)


@dataclass(frozen=True, kw_only=True)
class SliceFile(Slice):
    """A slice in a DICOM file of its own, and the encoding of its pixels."""

    identity: tuple[str, ...]  # hashes of CONSTANT and IN_SEQUENCE
    syntax: str  # transfer syntax UID
    pixels: PixelElement  # the PixelData element
    bits_allocated: int  # 8 or 16 bits per pixel
    bits_stored: int  # number of significant bits, the low ones
    signed: bool  # two's complement

    @property
    def n_bytes(self) -> int:
        """Size of its uncompressed pixels in bytes."""
        return self.shape[0] * self.shape[1] * self.bits_allocated // 8


def check_kind(elements: Elements, syntax: str) -> None:
    """Raise Refused unless the header describes one grey slice that can be decoded."""
    frames = elements.number("NumberOfFrames") if elements.has("NumberOfFrames") else 1
    if frames > 1 or elements.text("SOPClassUID") in ENHANCED_CT:
        raise Refused("is multi-frame", "convert it to one file per slice")
    if frames != 1:
        raise Refused(f"has NumberOfFrames {frames:g}, expected 1", FIX_HEADER)
    missing = [name for name in REQUIRED if not elements.has(name)]
    if missing:
        raise Refused(f"has no {', '.join(missing)}", "geometry and HU are never guessed: fix the header")
    photometric = elements.text("PhotometricInterpretation")
    if photometric != "MONOCHROME2":
        value = photometric if photometric in PHOTOMETRIC else "of an unknown code"
        raise Refused(f"has PhotometricInterpretation {value}, expected MONOCHROME2", "convert it to MONOCHROME2")
    _check_value("SamplesPerPixel", elements.integer("SamplesPerPixel"), (1,), "convert it to one grey value per pixel")
    if not syntax:
        raise Refused("has no TransferSyntaxUID", "the encoding is never guessed: fix the file meta information")
    check_decodable(syntax)


def read_slice(path: Path, size: int, elements: Elements, syntax: str, pixels: PixelElement) -> SliceFile:
    """Check every value that defines the position of the slice or its HU; raises Refused."""
    rows, columns = elements.integer("Rows"), elements.integer("Columns")
    row_mm, column_mm = elements.numbers("PixelSpacing", 2)
    position = elements.numbers("ImagePositionPatient", 3)
    check_geometry((rows, columns), (row_mm, column_mm), position)
    slope = elements.number("RescaleSlope")
    if slope == 0:
        raise Refused("has RescaleSlope 0", FIX_HEADER)
    allocated, stored = elements.integer("BitsAllocated"), elements.integer("BitsStored")
    _check_value("BitsAllocated", allocated, (8, 16) if pixels.little_endian else (16,),
                 "convert it to 16 bits per pixel")  # fmt: skip
    _check_value("BitsStored", stored, range(1, allocated + 1), FIX_HEADER)
    _check_value("HighBit", elements.integer("HighBit"), (stored - 1,), "store the values in the low bits")
    representation = elements.integer("PixelRepresentation")
    thickness = elements.number("SliceThickness") if elements.has("SliceThickness") else math.nan
    padding, limit = elements.padding("PixelPaddingValue"), elements.padding("PixelPaddingRangeLimit")
    _check_value("PixelRepresentation", representation, (0, 1), FIX_HEADER)
    return SliceFile(
        path=os.fspath(path),
        size=size,
        sop_uid=elements.uid("SOPInstanceUID"),
        position_mm=position,
        orientation=elements.numbers("ImageOrientationPatient", 6),
        shape=(rows, columns),
        pixel_spacing_mm=(row_mm, column_mm),
        slice_thickness_mm=thickness,
        manufacturer=vendor(elements.text("Manufacturer")),
        kernel=kernel(elements),
        contrast=contrast(elements),
        identity=_identity(elements, thickness),
        rescale_type=rescale_type(elements),
        slope=slope,
        intercept=elements.number("RescaleIntercept"),
        syntax=syntax,
        pixels=pixels,
        bits_allocated=allocated,
        bits_stored=stored,
        signed=representation == 1,
        padding=None if padding is None else (padding, padding if limit is None else limit),
        instance_number=elements.whole_number("InstanceNumber"),
    )


def check_geometry(
    shape: tuple[int, int], spacing_mm: Sequence[float], position_mm: Sequence[float], spacing: str = "PixelSpacing"
) -> None:
    """Raise Refused for sizes, spacings (with the header's name of them) and positions of a damaged header."""
    if not all(0 < size <= MAX_MATRIX for size in shape):
        raise Refused(f"declares {shape[0]} x {shape[1]} pixels", f"{FIX_HEADER}: 1 to {MAX_MATRIX} rows and columns")
    if not all(0 < mm < MAX_SPACING_MM for mm in spacing_mm):
        shown = ", ".join(f"{mm:g}" for mm in spacing_mm)
        raise Refused(f"has {spacing} {shown} mm", f"{FIX_HEADER}: above 0 and below {MAX_SPACING_MM} mm")
    if (distance := max(map(abs, position_mm))) > MAX_POSITION_MM:
        raise Refused(f"is {distance:g} mm from the origin", f"{FIX_HEADER}: its position")


def _identity(elements: Elements, thickness_mm: float) -> tuple[str, ...]:
    """Hashes, so that messages cannot repeat what identifies a patient; SliceThickness is rounded to 0.1 mm."""
    return (*(elements.digest(name) for name in (*CONSTANT, *IN_SEQUENCE[:-1])), f"{thickness_mm:.1f}")


def _check_value(name: str, value: int, allowed: range | tuple[int, ...], remedy: str) -> None:
    if value not in allowed:
        expected = f"1 to {allowed[-1]}" if isinstance(allowed, range) else " or ".join(map(str, allowed))
        raise Refused(f"has {name} {value}, expected {expected}", remedy)
