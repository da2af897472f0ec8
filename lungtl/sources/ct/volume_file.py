"""CT volumes in MetaImage and NIfTI files: the same checks of geometry and HU as for DICOM.

Both formats are read here: common readers return zeros for a truncated file and make up a missing orientation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import Refused
from lungtl.sources.ct.header import file_size
from lungtl.sources.ct.metaimage import read_metaimage
from lungtl.sources.ct.nifti import read_nifti
from lungtl.sources.ct.slice_file import MAX_MATRIX, Slice, check_geometry
from lungtl.sources.ct.stored_volume import StoredVolume, read_stored
from lungtl.sources.files import printable

SUFFIXES = (".mhd", ".mha", ".nii", ".nii.gz")
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
DIRECTION_TOLERANCE = 1e-3
INT16 = np.iinfo(np.int16)


@dataclass(frozen=True, kw_only=True)
class VolumeSlice(Slice):
    """One slice of a volume file."""

    index: int  # in the file
    stored: StoredVolume


def volume_name(path: Path) -> str | None:
    """The name of a volume file without its suffix, the id of its scan; None for other files."""
    suffix = next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)
    return None if suffix is None else printable(path.name[: -len(suffix)])


def read_slices(path: Path, inside: Path | None) -> tuple[VolumeSlice, ...]:
    """Read the header of a volume file; axes that point the other way are turned.

    Args:
        path: the file.
        inside: the folder, resolved, that may contain its values; None: anywhere.

    Returns:
        Its slices by ascending z, their first voxel the right anterior one of the patient (LPS, like axial DICOM).

    Raises:
        Refused: the file cannot be read, or is not an axial volume of at least two slices.
    """
    try:
        size = file_size(path)
        stored = read_nifti(path) if path.name.lower().endswith((".nii", ".nii.gz")) else read_metaimage(path, inside)
    except OSError as error:
        raise Refused(f"cannot be read ({error.strerror})", "check its permissions") from None
    _check(stored)
    columns, rows, count = stored.size
    step = stored.spacing_mm[2]
    x, y, z = (
        origin if direction[axis] > 0 else origin - (n - 1) * spacing
        for axis, (origin, direction, n, spacing) in enumerate(
            zip(stored.origin_mm, stored.direction, stored.size, stored.spacing_mm, strict=True)
        )
    )
    upwards = stored.direction[2][2] > 0
    return tuple(
        VolumeSlice(
            path=str(path),
            size=size,
            position_mm=(x, y, z + k * step),
            orientation=AXIAL,
            shape=(rows, columns),
            pixel_spacing_mm=(stored.spacing_mm[1], stored.spacing_mm[0]),
            slope=stored.slope,
            intercept=stored.intercept,
            index=k if upwards else count - 1 - k,
            stored=stored,
        )
        for k in range(count)
    )


def read_hu(slices: Sequence[VolumeSlice], out: NDArray[np.int16]) -> None:
    """Write the HU of slices of one file into int16 [n, rows, columns]; raises Refused."""
    stored = slices[0].stored
    first = min(file.index for file in slices)
    values = read_stored(stored, first, max(file.index for file in slices) - first + 1)
    if stored.direction[0][0] < 0:
        values = values[:, :, ::-1]
    if stored.direction[1][1] < 0:
        values = values[:, ::-1]
    low, high = math.inf, -math.inf
    for file, hu in zip(slices, out, strict=True):
        scaled = values[file.index - first] * np.float64(stored.slope) + stored.intercept
        if not np.isfinite(scaled).all():
            raise Refused("has values that are not finite", "give them a value outside the patient, such as -1024")
        low, high = min(low, float(scaled.min())), max(high, float(scaled.max()))
        if np.rint(low) < INT16.min or np.rint(high) > INT16.max:
            raise Refused(f"has HU from {low:g} to {high:g}, outside int16", "save it in Hounsfield units")
        hu[...] = np.rint(scaled)
    if low >= 0 or (low >= -1 and high <= 1):
        raise Refused(f"has values from {low:g} to {high:g}, which are not HU (air is -1000)",
                      "save the scan in Hounsfield units; move masks and other images elsewhere")  # fmt: skip


def _check(stored: StoredVolume) -> None:
    """Raise Refused unless a volume is axial and its geometry credible."""
    columns, rows, count = stored.size
    check_geometry((rows, columns), stored.spacing_mm, stored.origin_mm, "the voxel spacing")
    if not 2 <= count <= MAX_MATRIX:
        reason = "only one slice, so its spacing is unknown" if count == 1 else f"declares {count} slices"
        raise Refused(reason, f"provide a series of 2 to {MAX_MATRIX} slices")
    if np.abs(np.abs(stored.direction) - np.eye(3)).max() > DIRECTION_TOLERANCE:
        shown = " ".join(f"{value:g}" for axis in stored.direction for value in axis)
        raise Refused(f"has the axes {shown}, which are oblique or not axial", "resample it to axial slices")
