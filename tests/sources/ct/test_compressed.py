"""Compressed pixels: the values of the uncompressed original, or a reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.uid import JPEG2000, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from lungtl.sources.ct.encoding import PLUGINS, decoders
from lungtl.sources.ct.series import find_series
from lungtl.sources.ct.slice_file import SliceFile
from lungtl.sources.ct.volume import read_volume
from tests.dicom_files import UID, ramp, write_series
from tests.sources.ct.encodings import GDCM_NAMES, compress
from tests.sources.ct.found import Z, only, reasons, unreadable

pytest.importorskip("gdcm", reason="pip install 'lungtl[compressed]'")
SIZE = (16, 20)


def stored(bits: int, signed: bool) -> NDArray[Any]:
    """Two slices of random values with a number of bits, within the range of HU."""
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if signed else (0, min(2**bits, 2**15))
    return np.random.default_rng(0).integers(low, high, (2, *SIZE)).astype(np.int16 if signed else np.uint16)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("syntax", GDCM_NAMES, ids=lambda syntax: str(syntax.name))
def test_compressed_pixels_are_those_of_the_original(tmp_path: Path, syntax: str, bits: int, signed: bool) -> None:
    original = stored(bits, signed)
    for path in write_series(tmp_path, [0, 1], original, intercept=0, BitsStored=bits, HighBit=bits - 1):
        size = path.stat().st_size
        compress(path, syntax)
        assert path.stat().st_size != size
    series = only(tmp_path)
    assert isinstance(first := series.files[0], SliceFile)
    assert first.syntax == syntax
    assert np.array_equal(read_volume(series).hu, original)


def test_rle_of_pydicom(tmp_path: Path) -> None:
    write_series(tmp_path, Z, rle=True)
    assert np.array_equal(read_volume(only(tmp_path)).hu, ramp(4) - 1024)


def test_all_decoders_are_available() -> None:
    assert decoders() == sorted(PLUGINS)
    assert set(decoders()) == {str(syntax) for syntax in GDCM_NAMES}


def test_without_the_extra(tmp_path: Path) -> None:
    for syntax in (JPEGLosslessSV1, RLELossless):
        for path in write_series(tmp_path / syntax, Z, uid=syntax):
            compress(path, syntax)
    program = f"""
import sys
sys.modules["gdcm"] = None  # importing it fails
from pathlib import Path
from lungtl.sources.ct.series import find_series
from lungtl.sources.ct.encoding import decoders
series, refusals = find_series(Path({str(tmp_path)!r}))
print(decoders(), [s.uid for s in series], [(r.item, r.reason, r.remedy) for r in refusals], sep="\\n")
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    refusal = (
        str(JPEGLosslessSV1),
        "slice-000.dcm is compressed (JPEG Lossless, Non-Hierarchical, First-Order Prediction (Process 14 [Selection "
        "Value 1])) and no decoder is installed",
        "pip install 'lungtl[compressed]'",
    )
    assert said.stdout == f"{[str(RLELossless)]}\n{[str(RLELossless)]}\n{[refusal]}\n"


# Damage


def edit_of(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def swapped(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert content.count(old) == 1
        return content.replace(old, new)

    return change


@pytest.mark.parametrize(
    ("syntax", "old", "new"),
    [
        (JPEGLosslessSV1, b"\xff\xc3\x00\x0b\x10\x00\x10\x00\x14", b"\xff\xc3\x00\x0b\x10\xff\xff\xff\xff"),
        (JPEGLSLossless, b"\xff\xf7\x00\x0b\x10\x00\x10\x00\x14", b"\xff\xf7\x00\x0b\x10\xff\xff\xff\xff"),
        (JPEG2000, b"\x00\x00\x00\x14\x00\x00\x00\x10" + bytes(8), b"\x00\x00\xff\xff\x00\x00\xff\xff" + bytes(8)),
    ],
    ids=["JPEG", "JPEG-LS", "JPEG 2000"],
)
def test_frame_of_another_size(tmp_path: Path, syntax: str, old: bytes, new: bytes) -> None:
    paths = write_series(tmp_path, [0, 1], stored(16, True), intercept=0)
    compress(paths[1], syntax)
    first = paths[1].read_bytes().index(old)  # JPEG 2000 stores the size of its tile after that of the image
    edit_of(paths[1], lambda content: content[:first] + new + content[first + len(old) :])
    assert unreadable(tmp_path) == (
        "slice-001.dcm is damaged: its compressed frame is 65535 x 65535, the header 16 x 20"
    )


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000], ids=lambda syntax: str(syntax.name))
def test_frame_cut_short(tmp_path: Path, syntax: str) -> None:
    paths = write_series(tmp_path, [0, 1], stored(16, True), intercept=0)
    compress(paths[1], syntax)
    end = paths[1].read_bytes().rindex(b"\xff\xd9")
    edit_of(paths[1], lambda content: content[: end - 40] + bytes(42) + content[end + 2 :])
    assert unreadable(tmp_path) == "slice-001.dcm is damaged: its compressed frame is truncated"


@pytest.mark.parametrize("lost", [b"\x64\xc4", b"\xff\xe0"])
def test_frame_without_its_huffman_table(tmp_path: Path, lost: bytes) -> None:
    """GDCM would end the whole process."""
    paths = write_series(tmp_path, [0, 1], stored(16, True), intercept=0)
    compress(paths[1], JPEGLosslessSV1)
    edit_of(paths[1], swapped(b"\xff\xc4\x00", lost + b"\x00"))
    assert unreadable(tmp_path) == "slice-001.dcm is damaged: its compressed frame cannot be decoded"


def test_frame_with_too_few_pixels(tmp_path: Path) -> None:
    path = write_series(tmp_path, [0, 1], np.zeros((2, 8, 8), np.int16), rle=True)[1]
    end = path.read_bytes().rindex(b"\xfe\xff\xdd\xe0")
    edit_of(path, lambda content: content[: end - 4] + b"\x7f" * 4 + content[end:])
    assert unreadable(tmp_path) == "slice-001.dcm is damaged: its compressed frame cannot be decoded"


@pytest.mark.parametrize("frame", [b"", b"\xff\xd8", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff\xc3\x00", b"DOE^JOHN" * 9])
@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless, JPEG2000, RLELossless], ids=lambda s: str(s.name))
def test_invalid_frame(tmp_path: Path, syntax: str, frame: bytes) -> None:
    paths = write_series(tmp_path, [0, 1], stored(16, True), intercept=0)
    compress(paths[0], syntax)
    content = paths[0].read_bytes()
    value = content.index(b"\xe0\x7f\x10\x00O") + 12
    items = b"\xfe\xff\x00\xe0" + bytes(4) + b"\xfe\xff\x00\xe0" + len(frame).to_bytes(4, "little") + frame
    paths[0].write_bytes(content[:value] + items + b"\xfe\xff\xdd\xe0" + bytes(4))
    assert unreadable(tmp_path) == "slice-000.dcm is damaged: its compressed frame cannot be decoded"


def test_frame_larger_than_its_pixels(tmp_path: Path) -> None:
    paths = write_series(tmp_path, [0, 1], rle=True)
    content = paths[0].read_bytes()
    start = content.index(b"\xe0\x7f\x10\x00O") + 12  # an empty offset table, then the frame
    frame = content.index(b"\xfe\xff\x00\xe0", start + 8)
    longer = b"\xfe\xff\x00\xe0" + (8192).to_bytes(4, "little") + bytes(8192) + b"\xfe\xff\xdd\xe0" + bytes(4)
    paths[0].write_bytes(content[:frame] + longer)
    assert unreadable(tmp_path) == "slice-000.dcm is damaged: its compressed frame cannot be decoded"


def test_compressed_syntax_of_plain_pixels(tmp_path: Path) -> None:
    path = write_series(tmp_path / "bad", Z)[0]
    plain, rle = b"UI\x14\x001.2.840.10008.1.2.1\0", b"UI\x14\x001.2.840.10008.1.2.5\0"
    edit_of(path, swapped(plain, rle))
    reason = "slice-000.dcm is damaged: a compressed transfer syntax, but PixelData is not encapsulated"
    assert reasons(tmp_path) == {UID: reason}
    assert find_series(tmp_path)[1][0].remedy == "copy or download the file again"
