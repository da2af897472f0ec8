"""The slices of one series as a plain axial stack."""

from __future__ import annotations

import filecmp
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np

from lungtl.settings.errors import Refused
from lungtl.sources.ct.slice_file import SliceFile

ORIENTATION_TOLERANCE = 1e-3
POSITION_TOLERANCE_MM = 1e-2
MAX_DRIFT_MM = 0.5  # how far slice origins may wander within the plane before the gantry was tilted
MAX_VOXELS = 2**32  # 8 GiB as int16, ten times the longest chest CT at 1 mm


def without_copies(slices: Sequence[SliceFile]) -> list[SliceFile]:
    """Leave out files that are byte for byte copies of an earlier one.

    Raises:
        Refused: two files with the same SOPInstanceUID differ.
    """
    kept: dict[str, SliceFile] = {}
    for file in slices:
        first = kept.setdefault(file.sop_uid, file)
        if first is not file and not _same_bytes(first, file):
            raise Refused(
                f"{first.name} and {file.name} have the same SOPInstanceUID but differ", "remove the one that is wrong"
            )
    return list(kept.values())


def axial_stack(slices: Sequence[SliceFile]) -> tuple[SliceFile, ...]:
    """Order slices by ascending z.

    Raises:
        Refused: they differ in matrix, spacing or orientation, are not axial, are tilted, two lie at one position,
            or they are too many voxels.
    """
    if len(slices) < 2:
        raise Refused("a single slice has no spacing", "give a series of at least two slices")
    check_same("Rows", [file.shape[0] for file in slices])
    check_same("Columns", [file.shape[1] for file in slices])
    check_same("PixelSpacing", [file.pixel_spacing_mm for file in slices])
    _check_orientation(np.array([file.orientation for file in slices]))
    positions = np.array([file.position_mm for file in slices])
    drift = np.ptp(positions[:, :2], axis=0).max()
    if drift > MAX_DRIFT_MM:
        raise Refused(f"slice origins wander {drift:.1f} mm in the plane (tilted gantry?)", "correct the tilt first")
    order = np.argsort(positions[:, 2], kind="stable")
    z_mm = positions[order, 2]
    steps = np.diff(z_mm)
    if steps.min() < POSITION_TOLERANCE_MM:
        raise Refused(f"two slices at z = {z_mm[int(steps.argmin())]:g} mm", "keep one slice a position")
    rows, columns = slices[0].shape
    check_voxels(max(len(slices), round(z_mm[-1] - z_mm[0])), rows, columns)
    return tuple(slices[k] for k in order)


def check_same(tag: str, values: Sequence[Hashable]) -> None:
    """Raise Refused where a value that all slices share differs."""
    if len(set(values)) > 1:
        shown = ", ".join(sorted(map(str, set(values)))[:3])
        raise Refused(f"{tag} differs between slices ({shown})", "split the series by that value")


def check_voxels(n_slices: int, rows: int, columns: int) -> None:
    """Raise Refused where a volume would exceed MAX_VOXELS."""
    if n_slices * rows * columns > MAX_VOXELS:
        raise Refused(
            f"{n_slices} slices of {rows} x {columns} at 1 mm or as they are exceed {MAX_VOXELS} voxels",
            "split the series, or mend its positions",
        )


def _check_orientation(orientations: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        raise Refused("slices have different orientations", "split the series by orientation")
    if np.abs(orientations[0] - [1, 0, 0, 0, 1, 0]).max() > ORIENTATION_TOLERANCE:
        shown = "\\".join(f"{v:g}" for v in orientations[0])
        raise Refused(f"ImageOrientationPatient is {shown}, not axial", "reformat the series to axial 1\\0\\0\\0\\1\\0")


def _same_bytes(one: SliceFile, other: SliceFile) -> bool:
    try:
        return filecmp.cmp(Path(one.path), Path(other.path), shallow=False)
    except OSError as error:
        raise Refused(f"{other.name} cannot be read ({error.strerror})", "check its permissions") from None
