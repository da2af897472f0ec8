"""Small CT series with damaged files; the same seed gives the same series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom import config
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian

from tests.dicom_files import UID, write_series

WILD = (b"", b"NaN", b"1e308", b"-1e308", b"inf", b"abc", b"0", b"-1", b"1\\2\\3\\4\\5\\6\\7", b"\\",
        b"\xff\xff\xff\xff", b"\x60\xea", b"\x00\x00", b"\xff\xff", b"1e-320", b"60000", b" ", b"1.5\\",
        b"\x00" * 64, b"9" * 70)  # fmt: skip
KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "SliceThickness", "Manufacturer",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "RescaleSlope", "RescaleIntercept", "PixelData", "SpecificCharacterSet",
)  # fmt: skip
Mutation = Callable[[Path, np.random.Generator], None]


def write_mutated(folder: Path, seed: int) -> list[str]:
    """Write one series and damage it.

    Args:
        folder: gets the files.
        seed: decides everything.

    Returns:
        What was done, for the report of a failure.
    """
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 6))
    z = np.cumsum(rng.choice([0.5, 1.0, 1.25, 2.5, 5.0], count))
    stored = rng.integers(0, 4096, (count, 6, 5)).astype(np.int16 if rng.random() < 0.7 else np.uint16)
    syntax = rng.choice(["explicit", "implicit", "big", "rle"], p=[0.55, 0.2, 0.1, 0.15])
    slope = float(rng.choice([1.0, 1.0, 0.5, 1.37]))
    paths = write_series(folder, z, stored, uid=UID, slope=slope, rle=syntax == "rle")
    done = [f"{count} slices, {syntax}, slope {slope}"]
    if syntax in ("implicit", "big"):
        for path in paths:
            _rewrite(path, str(syntax))
    for _ in range(int(rng.integers(1, 4))):
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        everywhere = rng.random() < 0.25
        hit = paths if everywhere else [paths[int(rng.integers(count))]]
        state = int(rng.integers(2**32))
        for path in hit:
            mutation(path, np.random.default_rng(state))  # the same damage to every file
        done.append(f"{mutation.__name__}({state}) in {'all' if everywhere else hit[0].name}")
    return done


def _rewrite(path: Path, syntax: str) -> None:
    """The same slice in another transfer syntax."""
    dataset = pydicom.dcmread(path)
    fresh = pydicom.Dataset()
    fresh.file_meta = dataset.file_meta
    fresh.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if syntax == "big" else ImplicitVRLittleEndian
    for element in dataset:  # decoded here, so that they are encoded again
        fresh.add(element)
    if syntax == "big":
        fresh.PixelData = np.frombuffer(dataset.PixelData, np.uint16).byteswap().tobytes()
    pydicom.dcmwrite(path, fresh, enforce_file_format=True)


def flip_bytes(path: Path, rng: np.random.Generator) -> None:
    """Change a few bytes anywhere."""
    content = bytearray(path.read_bytes())
    for position in rng.integers(0, max(1, len(content)), int(rng.integers(1, 12))):
        if content:
            content[int(position)] = int(rng.integers(256))
    path.write_bytes(content)


def flip_a_bit_behind_the_preamble(path: Path, rng: np.random.Generator) -> None:
    """Change one bit after the first 132 bytes."""
    content = bytearray(path.read_bytes())
    if len(content) > 133:
        content[int(rng.integers(132, len(content)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def cut(path: Path, rng: np.random.Generator) -> None:
    """Truncate the file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(0, len(content) + 1))])


def repeat_a_piece(path: Path, rng: np.random.Generator) -> None:
    """Duplicate a part of the file."""
    content = path.read_bytes()
    start, stop = sorted(rng.integers(0, len(content) + 1, 2).tolist())
    path.write_bytes(content[:stop] + content[start:])


def drop_tag(path: Path, rng: np.random.Generator) -> None:
    """Remove a tag."""
    dataset = _read(path)
    keyword = KEYWORDS[int(rng.integers(len(KEYWORDS)))]
    if dataset is not None and keyword in dataset:
        del dataset[keyword]
        _save(dataset, path)


def wild_value(path: Path, rng: np.random.Generator) -> None:
    """Write an impossible value to a tag."""
    dataset = _read(path)
    keyword = KEYWORDS[int(rng.integers(len(KEYWORDS)))]
    value = WILD[int(rng.integers(len(WILD)))]
    if dataset is None or keyword not in dataset:
        return
    _put(dataset, keyword, value)
    _save(dataset, path)


def far_away(path: Path, rng: np.random.Generator) -> None:
    """Move a slice far away, or to the position of another one."""
    dataset = _read(path)
    if dataset is not None and "ImagePositionPatient" in dataset:
        z = rng.choice(["1e300", "-1e16", "NaN", "0.001", "0.5", "1000000", "1e-300"])
        _put(dataset, "ImagePositionPatient", f"-10\\-20\\{z}".encode())
        _save(dataset, path)


MUTATIONS: tuple[Mutation, ...] = (
    flip_bytes, flip_a_bit_behind_the_preamble, flip_a_bit_behind_the_preamble, cut, repeat_a_piece, drop_tag,
    wild_value, wild_value, far_away,
)  # fmt: skip


def _put(dataset: FileDataset, keyword: str, value: bytes) -> None:
    """Replace the bytes of an element without decoding them."""
    tag = Tag(keyword)
    value += b"\0" * (len(value) % 2)
    little = not str(dataset.file_meta.get("TransferSyntaxUID", "")).endswith("1.2.2")
    dataset._dict[tag] = RawDataElement(tag, dataset.get_item(tag).VR, len(value), value, 0, False, little)


def _read(path: Path) -> FileDataset | None:
    """The dataset; None if an earlier mutation made it unreadable."""
    try:
        return pydicom.dcmread(path)
    except Exception:  # pydicom raises many types after an earlier mutation
        return None


def _save(dataset: FileDataset, path: Path) -> None:
    before, config.settings.writing_validation_mode = config.settings.writing_validation_mode, config.IGNORE
    try:
        dataset.save_as(path)
    except Exception:  # it cannot be written: the file is not changed
        return
    finally:
        config.settings.writing_validation_mode = before
