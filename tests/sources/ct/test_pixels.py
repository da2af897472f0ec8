"""Stored values of every width, sign and byte order, by hand and against SimpleITK; and those that are refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, HTJ2KLossless

from lungtl.sources.ct import encoding
from lungtl.sources.ct.volume import read_volume
from tests.dicom_files import UID, Edit, ramp, truncate, write_series
from tests.sources.ct.encodings import UNCOMPRESSED, reencode
from tests.sources.ct.found import Z, only, reasons

sitk: Any = SimpleITK
META_BYTES = 400  # more than the file meta information of these files


def bits(stored: int, *, signed: bool = False, allocated: int = 16, high: int | None = None) -> Edit:
    def edit(_: int, dataset: FileDataset) -> None:
        dataset.BitsAllocated, dataset.BitsStored = allocated, stored
        dataset.HighBit = stored - 1 if high is None else high
        dataset.PixelRepresentation = int(signed)
        if allocated == 8:
            values = np.frombuffer(dataset.PixelData, "<u2").astype(np.uint8).tobytes()
            dataset.PixelData = values + bytes(len(values) % 2)

    return edit


def simpleitk(folder: Path) -> list[float]:
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    return list(sitk.GetArrayFromImage(sitk.ReadImage(names, sitk.sitkFloat64)).ravel())


def pixels(*values: int) -> NDArray[np.uint16]:
    """Two slices, of half the values each."""
    return np.array(values, np.uint16).reshape(2, 1, -1)


# Accepted


@pytest.mark.parametrize(
    ("edit", "stored", "expected"),
    [
        (bits(12), (0x0000, 0x0FFF), (0, 4095)),
        (bits(12), (0xF123, 0x8ABC), (0x123, 0xABC)),  # an overlay in the unused bits
        (bits(12, signed=True), (0x0FFF, 0x0800), (-1, -2048)),
        (bits(12, signed=True), (0x7123, 0x0ABC), (0x123, 0xABC - 0x1000)),
        (bits(8), (0xFF12, 0x0081), (0x12, 0x81)),
        (bits(15, signed=True), (0x4000, 0xC001), (-16384, -16383)),
        (bits(8, allocated=8), (0, 255, 7, 128), (0, 255, 7, 128)),
        (bits(8, allocated=8), (5, 6, 7, 255, 0, 1), (5, 6, 7, 255, 0, 1)),  # an odd number of bytes, padded
        (bits(8, allocated=8, signed=True), (0, 255, 7, 128), (0, -1, 7, -128)),
    ],
)
def test_bits(tmp_path: Path, edit: Edit, stored: tuple[int, ...], expected: tuple[int, ...]) -> None:
    write_series(tmp_path, [0, 1], pixels(*stored), intercept=0, edit=edit)
    assert read_volume(only(tmp_path)).hu.ravel().tolist() == list(expected)
    assert simpleitk(tmp_path) == list(expected)


@pytest.mark.parametrize("intercept", [-1000, -0.5])
def test_narrow_pixels_are_scaled_like_wide_ones(tmp_path: Path, intercept: float) -> None:
    write_series(tmp_path, [0, 1], pixels(0, 255), intercept=intercept, edit=bits(8, allocated=8))
    assert read_volume(only(tmp_path)).hu.ravel().tolist() == [round(intercept), round(255 + intercept)]


def test_unsigned_padding(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 1], pixels(63536, 24), PixelPaddingValue=63536, intercept=-32768)
    assert read_volume(only(tmp_path)).hu.ravel().tolist() == [30768, -32744]


@pytest.mark.parametrize("syntax", UNCOMPRESSED, ids=lambda syntax: str(syntax.name))
def test_uncompressed_encodings(tmp_path: Path, syntax: str) -> None:
    for path in write_series(tmp_path, Z):
        reencode(path, syntax)
    assert np.array_equal(read_volume(only(tmp_path)).hu, ramp(4) - 1024)


@pytest.mark.parametrize("slope", [1, 2])
def test_one_slice_of_another_encoding(tmp_path: Path, slope: int) -> None:
    paths = write_series(tmp_path, Z, slope=slope)
    reencode(paths[1], ExplicitVRBigEndian)
    assert np.array_equal(read_volume(only(tmp_path)).hu, ramp(4) * slope - 1024)


# Refused


def tags(**values: Any) -> Edit:
    def edit(k: int, dataset: FileDataset) -> None:
        if k == 1:
            for keyword, value in values.items():
                setattr(dataset, keyword, value)

    return edit


def floating(k: int, dataset: FileDataset) -> None:
    if k == 1:
        del dataset.PixelData
        dataset.FloatPixelData = bytes(4 * 12)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (
            tags(PhotometricInterpretation="MONOCHROME1"),
            "has PhotometricInterpretation MONOCHROME1, expected MONOCHROME2",
        ),
        (tags(PhotometricInterpretation="RGB", SamplesPerPixel=3), "has PhotometricInterpretation RGB"),
        (tags(PhotometricInterpretation="DOE JOHN"), "has PhotometricInterpretation of an unknown code"),
        (tags(SamplesPerPixel=3), "has SamplesPerPixel 3, expected 1"),
        (tags(BitsAllocated=32, BitsStored=32, HighBit=31), "has BitsAllocated 32, expected 8 or 16"),
        (tags(BitsAllocated=12, BitsStored=12, HighBit=11), "has BitsAllocated 12, expected 8 or 16"),
        (tags(BitsAllocated=1, BitsStored=1, HighBit=0), "has BitsAllocated 1, expected 8 or 16"),
        (tags(BitsStored=12, HighBit=15), "has HighBit 15, expected 11"),
        (floating, "has floating point pixels"),
        (tags(Rows=60000, Columns=60000), "declares 60000 x 60000 pixels"),
        (tags(Rows=8000, Columns=8000), "is damaged: 24 bytes of PixelData, the header requires 128000000"),
        (tags(PixelData=bytes(22)), "is damaged: 22 bytes of PixelData, the header requires 24"),
        (tags(PixelData=bytes(25) + b"\7"), "is damaged: PixelData has 2 bytes more than the header requires"),
        (tags(PixelData=bytes(48)), "is damaged: 48 bytes of PixelData, the header requires 24"),  # two images
        (tags(NumberOfFrames=2, PixelData=bytes(48)), "is multi-frame"),
        (tags(SOPClassUID=EnhancedCTImageStorage), "is multi-frame"),
    ],
)
def test_pixels_that_are_refused(tmp_path: Path, edit: Edit, reason: str) -> None:
    write_series(tmp_path / "bad", Z, edit=edit)
    assert reasons(tmp_path)[UID].startswith(f"slice-001.dcm {reason}")


@pytest.mark.parametrize("padding", [bytes(2), bytes(22), b"\xff" * 8])
def test_excess_padding_of_pixels(tmp_path: Path, padding: bytes) -> None:
    write_series(tmp_path, Z, edit=lambda _, dataset: setattr(dataset, "PixelData", dataset.PixelData + padding))
    assert np.array_equal(read_volume(only(tmp_path)).hu, ramp(4) - 1024)


def test_elements_after_the_pixels(tmp_path: Path) -> None:
    path = write_series(tmp_path / "in", Z)[1]
    content = path.read_bytes()
    padding = struct.pack("<HH2sxxI", 0xFFFC, 0xFFFC, b"OB", 2) + b"\1\1"
    for accepted in (b"\0" * 12, padding):
        path.write_bytes(content + accepted)
        assert np.array_equal(read_volume(only(tmp_path / "in")).hu, ramp(4) - 1024)
    path.write_bytes(content + content[content.index(struct.pack("<HH", 0x7FE0, 0x0010)) :])  # the pixels twice
    assert reasons(tmp_path) == {UID: "slice-001.dcm is damaged: elements out of order after PixelData"}


def test_pixels_cut_short(tmp_path: Path) -> None:
    truncate(write_series(tmp_path / "bad", Z)[1], -6)
    assert reasons(tmp_path) == {UID: "slice-001.dcm is truncated: 18 of 24 bytes of PixelData"}


def change(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def edited(content: bytes) -> bytes:
        assert content.count(old) == 1
        return content.replace(old, new)

    return edited


@pytest.mark.parametrize(
    ("edited", "reason"),
    [
        (
            change(b"OW\0\0\x18\0\0\0", b"OW\0\0\xfe\xff\xff\xff"),
            "is damaged: 4294967294 bytes of PixelData",
        ),
        (
            change(b"OW\0\0\x18\0\0\0", b"OW\0\0\xff\xff\xff\xff"),
            "is damaged: an undefined number of bytes",
        ),
        (change(b"OW\0\0\x18\0\0\0", b"LT\0\0\x18\0\0\0"), "has an invalid PixelData"),
        (change(b"UI\x14\x00" + ExplicitVRLittleEndian.encode() + b"\0", b"UI\x14\x00".ljust(24)), "has no TransferS"),
        (
            change(b"UI\x14\x00" + ExplicitVRLittleEndian.encode() + b"\0", b"UI\x14\x00" + b"DOE^JOHN".ljust(20)),
            "has an unsupported transfer syntax",
        ),
    ],
)
def test_bytes_that_contradict_the_header(tmp_path: Path, edited: Callable[[bytes], bytes], reason: str) -> None:
    path = write_series(tmp_path / "bad", Z)[1]
    path.write_bytes(edited(path.read_bytes()))
    assert reasons(tmp_path)[UID].startswith(f"slice-001.dcm {reason}")


def test_big_endian_bytes(tmp_path: Path) -> None:
    for path in write_series(tmp_path / "bad", Z, edit=bits(8, allocated=8)):
        reencode(path, ExplicitVRBigEndian)
    assert reasons(tmp_path) == {UID: "slice-000.dcm has BitsAllocated 8, expected 16"}


def test_syntax_without_support(tmp_path: Path) -> None:
    def htj2k(_: int, dataset: FileDataset) -> None:
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
        dataset.PixelData = encapsulate([b"\xff\x4f\xff\x51"])

    write_series(tmp_path / "bad", Z, edit=htj2k)
    assert reasons(tmp_path) == {UID: "slice-000.dcm has an unsupported transfer syntax"}


def test_deflated_bytes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_series(tmp_path / "bad", Z[:1])[0]
    reencode(path, "1.2.840.10008.1.2.1.99")
    monkeypatch.setattr(encoding, "MAX_INFLATED_BYTES", 500)
    reason = "has a deflated dataset that is truncated or larger than 500 bytes"
    assert reasons(tmp_path) == {"bad/slice-000.dcm": reason}


@pytest.mark.parametrize(
    ("keep", "end", "reason"),
    [
        (-20, b"", f"truncated or larger than {2**28} bytes"),
        (META_BYTES, b"\xff" * 200, "damaged deflated dataset"),  # no such kind of block
    ],
)
def test_damaged_deflated_bytes(tmp_path: Path, keep: int, end: bytes, reason: str) -> None:
    path = write_series(tmp_path / "bad", Z[:1])[0]
    reencode(path, "1.2.840.10008.1.2.1.99")
    path.write_bytes(path.read_bytes()[:keep] + end)
    assert reason in reasons(tmp_path)["bad/slice-000.dcm"]
