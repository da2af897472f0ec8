"""The headers of MetaImage files (.mhd with a file of values, .mha with both), as LUNA16 is distributed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lungtl.settings.errors import Refused
from lungtl.sources.ct.stored_volume import StoredVolume

TYPES = {"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
         "MET_FLOAT": "f4", "MET_DOUBLE": "f8"}  # fmt: skip
SYNONYMS = {"Position": "Offset", "Origin": "Offset", "Rotation": "TransformMatrix", "Orientation": "TransformMatrix",
            "ElementByteOrderMSB": "BinaryDataByteOrderMSB"}  # fmt: skip
MAX_HEADER_BYTES = 2**16
DATA = "ElementDataFile"
FIX = "fix the header, or write the file anew with SimpleITK"


def read_metaimage(path: Path, inside: Path | None) -> StoredVolume:
    """Read a header.

    Args:
        path: the .mhd or .mha.
        inside: the folder, resolved, that the file of values must not be outside of; None: it may be anywhere.

    Raises:
        Refused: the header is not one of a 3D volume, or leaves its geometry open.
    """
    entries, offset = _entries(path)
    expected = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "ElementNumberOfChannels": "1"}
    defaults = {"ElementNumberOfChannels": "1", "ObjectType": "Image"}
    for key, value in expected.items():
        found = entries.get(key, defaults.get(key, "missing"))
        if found != value:
            raise Refused(f"has {key} {found[:20]}, expected {value}", "save one 3D volume, one value per voxel")
    if entries.get("ElementType") not in TYPES:
        raise Refused("has an unsupported ElementType", f"save it as one of {', '.join(TYPES)}")
    order = ">" if entries.get("BinaryDataByteOrderMSB", "False") == "True" else "<"
    matrix = _numbers(entries, "TransformMatrix", 9)
    compressed = entries.get("CompressedData", "False") == "True"
    local = entries[DATA] == "LOCAL"
    skipped = entries.get("HeaderSize", "0")
    if skipped != "0":
        raise Refused(f"has HeaderSize {skipped[:20]}, expected 0", FIX)
    x, y, z = _numbers(entries, "DimSize", 3)
    return StoredVolume(
        size=(int(x), int(y), int(z)),
        spacing_mm=_three(_numbers(entries, "ElementSpacing", 3)),
        origin_mm=_three(_numbers(entries, "Offset", 3)),
        direction=tuple(_three(matrix[3 * axis : 3 * axis + 3]) for axis in range(3)),
        dtype=order + TYPES[entries["ElementType"]],
        slope=1.0,
        intercept=0.0,
        path=str(path if local else _data_file(path, entries[DATA], inside)),
        offset=offset if local else 0,
        compression="zlib" if compressed else "none",
    )


def _entries(path: Path) -> tuple[dict[str, str], int]:
    """The entries of a header, and its length in bytes."""
    entries: dict[str, str] = {}
    with path.open("rb") as file:
        while file.tell() < MAX_HEADER_BYTES and (line := file.readline(MAX_HEADER_BYTES)):
            key, equals, value = line.decode("utf-8", "replace").partition("=")
            if not equals:
                break
            key = SYNONYMS.get(key.strip(), key.strip())
            entries[key] = value.strip()
            if key == DATA:  # the last one
                return entries, file.tell()
    raise Refused(f"is not a MetaImage header: it has no {DATA}", FIX)


def _numbers(entries: dict[str, str], key: str, count: int) -> list[float]:
    try:
        values = [float(word) for word in entries.get(key, "").split()]
    except ValueError:
        values = []
    if len(values) != count or not np.isfinite(values).all():
        problem = f"has an invalid {key}" if key in entries else f"has no {key}"
        raise Refused(problem, f"geometry is never guessed: {FIX}")
    return values


def _three(values: list[float]) -> tuple[float, float, float]:
    return values[0], values[1], values[2]


def _data_file(path: Path, name: str, inside: Path | None) -> Path:
    if name == "LIST" or "%" in name:
        raise Refused("has one file of values per slice, which is not read", "save the volume as one file")
    data = path.parent / name
    if inside is not None and not data.resolve().is_relative_to(inside):
        raise Refused("has its values outside the folder", "move the file of values next to its .mhd")
    if not data.is_file():
        raise Refused("has no file of values: the one that its header names is missing", "put it next to the .mhd")
    return data
