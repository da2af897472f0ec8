"""The headers of NIfTI-1 files (.nii, .nii.gz)."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from lungtl.settings.errors import Refused
from lungtl.sources.ct.encoding import COPY_AGAIN
from lungtl.sources.ct.stored_volume import StoredVolume

HEADER_BYTES, NIFTI_2_BYTES = 348, 540
TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}
UNITS = {0: "mm", 2: "mm"}  # 0: unknown, which all readers take for mm
SPACE = 0b111  # bits of xyzt_units
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI's coordinates are RAS
AGREEMENT_MM = 0.1  # of the two transforms, anywhere in the volume
GUESS = "geometry is never guessed"
Read = Callable[[str, int], tuple[Any, ...]]
"""Unpacks numbers of a header: their `struct` format, their offset in bytes."""


def read_nifti(path: Path) -> StoredVolume:
    """Read a header; raises Refused if it is not one of a 3D volume, or leaves its geometry open."""
    compressed = path.name.lower().endswith(".gz")
    try:
        with gzip.open(path) if compressed else path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise Refused("is not a NIfTI-1 file: its header cannot be decompressed", COPY_AGAIN) from None
    length = {order: struct.unpack(f"{order}i", head[:4])[0] for order in "<>"} if len(head) >= 4 else {}
    if NIFTI_2_BYTES in length.values():
        raise Refused("is NIfTI-2, which is not read", "save it as NIfTI-1")
    orders = [order for order, value in length.items() if value == HEADER_BYTES]
    if not orders or len(head) < HEADER_BYTES or head[344:348] != b"n+1\0":
        raise Refused("is not a NIfTI-1 file", f"{COPY_AGAIN}, or move it elsewhere")
    order = orders[0]

    def read(form: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + form, head, at)

    dim, (datatype,), (slope, intercept), (offset,) = read("8h", 40), read("h", 70), read("2f", 112), read("f", 108)
    if not (3 <= dim[0] <= 7 and all(size == 1 for size in dim[4 : dim[0] + 1]) and min(dim[1:4]) > 0):
        shown = " x ".join(map(str, dim[1 : max(1, min(dim[0], 7)) + 1]))
        raise Refused(f"has {shown} values, expected one 3D volume", "save one volume as a file of its own")
    if datatype not in TYPES:
        raise Refused(f"has the data type {datatype}, expected real numbers of up to 64 bits", "save it as int16")
    unit = head[123] & SPACE
    if unit not in UNITS:
        raise Refused(f"has xyzt_units {unit}, expected 2 (mm)", "save it in mm")
    affine = TO_LPS @ _affine(read, (dim[1], dim[2], dim[3]))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    directions = (affine[:3, :3] / np.where(spacing > 0, spacing, 1)).T
    if not (math.isfinite(slope) and slope != 0):  # by definition, or in nibabel's habit, the values are not scaled
        slope, intercept = 1.0, 0.0
    if not HEADER_BYTES <= offset < 2**31 or offset != int(offset):
        raise Refused(f"has vox_offset {offset:g}, expected at least {HEADER_BYTES}", COPY_AGAIN)
    return StoredVolume(
        size=(dim[1], dim[2], dim[3]),
        spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        origin_mm=(float(affine[0, 3]), float(affine[1, 3]), float(affine[2, 3])),
        direction=tuple((float(x), float(y), float(z)) for x, y, z in directions),
        dtype=order + TYPES[datatype],
        slope=slope,
        intercept=intercept,
        path=str(path),
        offset=int(offset),
        compression="gzip" if compressed else "none",
    )


def _affine(read: Read, size: tuple[int, int, int]) -> NDArray[np.float64]:
    """Voxel indices -> RAS in mm, float64 [4, 4]; raises Refused if the two transforms are missing or disagree."""
    qform_code, sform_code = read("2h", 252)
    sform = np.vstack([np.reshape(read("12f", 280), (3, 4)), [0, 0, 0, 1]]).astype(np.float64)
    qform = _qform(read("8f", 76), read("6f", 256))
    if qform_code <= 0 and sform_code <= 0:
        raise Refused("has no orientation (qform_code and sform_code are 0)", f"{GUESS}: convert the DICOM series anew")
    affine = sform if sform_code > 0 else qform
    if not np.isfinite(affine).all():
        raise Refused("has an invalid orientation", f"{GUESS}: convert the DICOM series anew")
    if qform_code > 0 and sform_code > 0:
        corners = np.array([[x, y, z, 1] for x in (0, size[0]) for y in (0, size[1]) for z in (0, size[2])])
        apart = np.abs(corners @ (sform - qform).T).max()
        if not apart <= AGREEMENT_MM:
            raise Refused(f"has two orientations that differ by {apart:.1f} mm (qform and sform)",
                          f"{GUESS}: set the code of the wrong one to 0")  # fmt: skip
    return affine


def _qform(pixdim: tuple[float, ...], quaternion: tuple[float, ...]) -> NDArray[np.float64]:
    """The transform of a quaternion (b, c, d), an offset and spacings; NaN if they describe none."""
    affine = np.full((4, 4), np.nan)
    b, c, d, *offset = quaternion
    square = 1 - b * b - c * c - d * d
    if square > -1e-5:
        a = math.sqrt(max(square, 0.0))
        rotation = Rotation.from_quat([b, c, d, a]).as_matrix()
        affine[:3, :3] = rotation * [pixdim[1], pixdim[2], pixdim[3] * (-1 if pixdim[0] < 0 else 1)]
        affine[:3, 3], affine[3] = offset, [0, 0, 0, 1]
    return affine
