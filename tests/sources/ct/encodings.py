"""Encode the pixels of a written slice in another transfer syntax."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

UNCOMPRESSED = [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
GDCM_NAMES: dict[str, str] = {
    JPEGLossless: "JPEGLosslessProcess14",
    JPEGLosslessSV1: "JPEGLosslessProcess14_1",
    JPEGLSLossless: "JPEGLSLossless",
    JPEGLSNearLossless: "JPEGLSNearLossless",
    JPEG2000Lossless: "JPEG2000Lossless",
    JPEG2000: "JPEG2000",  # gdcm writes it without loss
    RLELossless: "RLELossless",
}


def reencode(path: Path, syntax: str) -> None:
    """Rewrite an Explicit VR Little Endian file without compression."""
    dataset = pydicom.dcmread(path)
    dataset["PixelData"].VR = "OW"
    if syntax == ExplicitVRBigEndian:
        pixels = dataset.pixel_array
        dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    pydicom.dcmwrite(
        path, dataset, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian
    )


def compress(path: Path, syntax: str) -> None:
    """Compress a file with GDCM, an implementation independent of pydicom."""
    library: Any = importlib.import_module("gdcm")  # has no types
    reader = library.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = library.ImageChangeTransferSyntax()
    change.SetTransferSyntax(library.TransferSyntax(getattr(library.TransferSyntax, GDCM_NAMES[syntax])))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = library.ImageWriter()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(path))
    assert writer.Write()
