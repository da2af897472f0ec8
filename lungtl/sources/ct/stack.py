"""Sort the slices of one DICOM series into one axial stack, or refuse it. Geometry is never guessed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import Refused
from lungtl.sources.ct.encoding import open_dicom
from lungtl.sources.ct.slice_file import CONSTANT, IN_SEQUENCE, SliceFile

ORIENTATION_TOLERANCE = 1e-3
POSITION_TOLERANCE_MM = 1e-2
NEAR_DUPLICATE = 0.05  # of the usual step between slices; less is one position, reconstructed twice
MAX_SHIFT_MM = 0.5  # of slice origins within the plane; more means a tilted gantry


def axial_stack(slices: Sequence[SliceFile]) -> tuple[SliceFile, ...]:
    """Sort slices by ascending z; raises Refused unless they form one axial stack."""
    if len(slices) < 2:
        raise Refused("only one slice, so its spacing is unknown", "provide a series of at least two slices")
    slices = sorted(slices, key=lambda file: file.position_mm[2])
    _check_unmixed([file.identity for file in slices])
    check_same("Rows", [file.shape[0] for file in slices])
    check_same("Columns", [file.shape[1] for file in slices])
    check_same("PixelSpacing", [file.pixel_spacing_mm for file in slices])
    _check_orientation(np.array([file.orientation for file in slices]))
    positions = np.array([file.position_mm for file in slices])
    shift = np.ptp(positions[:, :2], axis=0).max()
    if shift > MAX_SHIFT_MM:
        raise Refused(f"slice origins shift by {shift:.1f} mm in the plane (tilted gantry?)", "correct the tilt first")
    z_mm = positions[:, 2]
    steps = np.diff(z_mm)
    least = max(POSITION_TOLERANCE_MM, NEAR_DUPLICATE * np.percentile(steps, 75, method="lower"))
    if steps.min() < least:
        k = int((steps < least).argmax())
        raise _same_position(slices[k], slices[k + 1])
    return tuple(slices)


def check_same(tag: str, values: Sequence[Hashable]) -> None:
    """Raise Refused if a value differs between the slices of a series."""
    if len(set(values)) > 1:
        shown = ", ".join(sorted(map(str, set(values)))[:3])
        raise Refused(f"{tag} differs between slices ({shown})", "split the series by that value")


def _same_position(one: SliceFile, other: SliceFile) -> Refused:
    """The refusal of two slices at one position; says whether they are one slice under two UIDs."""
    reason = f"two slices at z = {one.position_mm[2]:g} mm: {one.name} and {other.name}"
    if one.n_bytes == other.n_bytes and _pixel_bytes(one) == _pixel_bytes(other):
        return Refused(f"{reason}, the same pixels with two SOPInstanceUIDs", "move one of the two elsewhere")
    return Refused(reason, "export acquisitions, phases and reconstructions as series of their own")


def _pixel_bytes(file: SliceFile) -> bytes:
    try:
        with open_dicom(Path(file.path)) as stream:
            stream.seek(file.pixels.value)
            return stream.read(min(file.pixels.length, file.size))
    except OSError as error:
        raise Refused(f"{file.name} cannot be read ({error.strerror})", "check its permissions") from None


def _check_unmixed(identities: Sequence[tuple[str, ...]]) -> None:
    """Raise Refused if slices, in the order of z, belong to several series; the values are not shown."""
    remedy = "export each as a series with its own SeriesInstanceUID"
    for tag, values in zip((*CONSTANT, *IN_SEQUENCE), zip(*identities, strict=True), strict=True):
        different = len(set(values))
        if different > 1 and tag in CONSTANT:
            raise Refused(f"{tag} differs between slices: {different} values in one series", remedy)
        if 1 + sum(one != other for one, other in pairwise(values)) > different:
            raise Refused(f"slices of {different} {tag} values alternate along z in one series", remedy)


def _check_orientation(orientations: NDArray[np.float64]) -> None:
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        raise Refused("slices have different orientations", "split the series by orientation")
    if np.abs(orientations[0] - [1, 0, 0, 0, 1, 0]).max() > ORIENTATION_TOLERANCE:
        shown = "\\".join(f"{v:g}" for v in orientations[0])
        raise Refused(f"ImageOrientationPatient is {shown}, not axial", "reformat the series to axial 1\\0\\0\\0\\1\\0")
