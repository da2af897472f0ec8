"""Find the CT series in a folder of any layout, and sort their slices.

Files are grouped by SeriesInstanceUID alone and sorted by their true position along z. Geometry is never guessed: a
series with missing or contradictory values is refused, with the reason. `docs/dicom.md` lists every case.
"""

from __future__ import annotations

import filecmp
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources.base import Refusal, fingerprint
from lungtl.sources.ct.encoding import open_dicom
from lungtl.sources.ct.header import Header, not_ct, read_headers
from lungtl.sources.ct.mixture import check_unmixed
from lungtl.sources.ct.other_formats import other_format
from lungtl.sources.ct.slice_file import SliceFile
from lungtl.sources.files import printable, walk

ORIENTATION_TOLERANCE = 1e-3
POSITION_TOLERANCE_MM = 1e-2
NEAR_DUPLICATE = 0.05  # of the usual step between slices; less is one position, reconstructed twice
MAX_SHIFT_MM = 0.5  # of slice origins within the plane; more means a tilted gantry
MAX_VOXELS = 2**32  # 8 GiB as int16, ten times the longest chest CT at 1 mm
MAX_GB = 2.0  # of a series, native and at 1 mm together: 1,900 slices of 512 x 512 in all


@dataclass(frozen=True)
class Series:
    """One axial CT series."""

    uid: str  # SeriesInstanceUID
    files: tuple[SliceFile, ...]  # by ascending z

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.files[0].shape

    @property
    def pixel_spacing_mm(self) -> tuple[float, float]:
        """(row, column) distance, as in DICOM's PixelSpacing."""
        return self.files[0].pixel_spacing_mm

    @property
    def z_mm(self) -> NDArray[np.float64]:
        """float64 [n_files], ascending."""
        return np.array([file.position_mm[2] for file in self.files])

    @property
    def native_spacing_mm(self) -> float:
        """Median distance between neighbouring slices."""
        return float(np.median(np.diff(self.z_mm)))

    @property
    def largest_gap_mm(self) -> float:
        """Largest distance between neighbouring slices."""
        return float(np.diff(self.z_mm).max())

    @property
    def fingerprint(self) -> str:
        """Hash of the slices' identities, file sizes, positions, spacing, rescale coefficients and padding values."""
        rows: list[list[object]] = []
        for f in self.files:
            row = [f.sop_uid, f.size, f.position_mm, f.pixel_spacing_mm, f.slope, f.intercept]
            rows.append([*row, f.padding] if f.padding else row)
        return fingerprint(rows)


def find_series(
    root: Path,
    option: str = "dataset.root",
    workers: int = 1,
    *,
    max_gb: float = MAX_GB,
    follow_links: bool = False,
) -> tuple[list[Series], list[Refusal]]:
    """Read the headers of all files in a folder and its subfolders.

    Args:
        root: the folder.
        option: the user's name of it.
        workers: processes at most.
        max_gb: memory for the voxels of a series, native and at 1 mm; a few MB of compressed files may need more.
        follow_links: also those that lead out of the folder.

    Returns:
        The usable series, sorted by UID, and the refused or skipped files (relative to root) and series (by UID).
    """
    if not os.path.isdir(root):  # noqa: PTH112 - Path.is_dir raises if a parent folder is not accessible
        other = other_format(root) if root.is_file() else None
        problem, remedy = (other.reason, f"{other.remedy}; or ") if other else ("not a folder", "")
        raise LungtlError(f"{option}={root} is {problem}; {remedy}set {option} to the folder with the DICOM series")
    paths, refusals = walk(root, follow_links)
    headers_of: dict[str, list[Header]] = defaultdict(list)
    for path, header in zip(paths, read_headers(paths, workers), strict=True):
        if isinstance(header, Refused):
            refusals.append(_file_refusal(path, root, header))
        elif header is not None:
            headers_of[header.series_uid].append(header)
    if not headers_of and not refusals:
        kinds = Counter(path.suffix for path in paths).most_common(1)
        found = f" ({len(paths)} files, most are {printable(kinds[0][0]) or 'without extension'})" if kinds else ""
        raise LungtlError(f"no DICOM file in {root}{found}; set {option} to the folder with the DICOM series")
    series = []
    for uid, headers in sorted(headers_of.items()):
        try:
            series.append(_build(uid, headers, root, refusals, max_gb))
        except Refused as refused:
            refusals.append(Refusal(uid or "(no SeriesInstanceUID)", refused.reason, refused.remedy))
    return series, refusals


def check_gap(series: Series, max_gap_mm: float) -> None:
    """Raise Refused if a gap between slices is so large that interpolation would invent tissue."""
    gap = series.largest_gap_mm
    if gap > max_gap_mm:
        raise Refused(
            f"a gap of {gap:g} mm between slices",
            f"add the missing slices, or accept the gap with dataset.max_gap_mm={np.ceil(gap):g}",
        )


def check_memory(series: Series, max_gb: float) -> None:
    """Raise Refused if a series needs too much memory, which a few MB of compressed files can."""
    rows, columns = series.shape
    at_1_mm = int(np.ptp(series.z_mm)) + 1
    needed = 2 * (len(series.files) + at_1_mm) * rows * columns / 1e9
    if needed > max_gb:
        raise Refused(
            f"{len(series.files)} slices of {rows} x {columns} ({at_1_mm} at 1 mm) need {needed:.1f} GB of memory, the "
            f"limit is {max_gb:g} GB",
            f"raise the limit: max_gb={np.ceil(needed):g} (of a dataset: dataset.max_gb={np.ceil(needed):g})",
        )


def check_voxels(n_slices: int, rows: int, columns: int) -> None:
    """Raise Refused if a volume would exceed MAX_VOXELS."""
    if n_slices * rows * columns > MAX_VOXELS:
        raise Refused(
            f"{n_slices} slices of {rows} x {columns} (native or at 1 mm) exceed {MAX_VOXELS} voxels",
            "split the series, or fix its positions",
        )


def _build(uid: str, headers: list[Header], root: Path, refusals: list[Refusal], max_gb: float) -> Series:
    """Check and sort one series; raises Refused, and adds skipped files to `refusals`."""
    if not uid:
        raise Refused(f"{len(headers)} files without SeriesInstanceUID", "fix their headers")
    _check_same("Modality", [header.modality for header in headers])
    if headers[0].modality != "CT":
        raise not_ct(headers[0].modality)
    slices = []
    for header in headers:
        if header.localizer:
            continue
        if isinstance(header.content, Refused):  # a series is never read without one of its slices
            raise header.content
        slices.append(header.content)
    if not slices:
        raise Refused("only localizers", "no action required: they contain no slices")
    unique = _without_copies(slices)
    series = Series(uid, _axial_stack(unique))
    check_memory(series, max_gb)
    localizer = Refused("localizer, not an axial slice", "no action required: the series is read without it")
    refusals.extend(_file_refusal(Path(header.path), root, localizer) for header in headers if header.localizer)
    if len(unique) < len(slices):
        reason = f"{len(slices) - len(unique)} duplicate files skipped (same SOPInstanceUID, same bytes)"
        refusals.append(Refusal(uid, reason, "no action required: the series is read without them"))
    return series


def _without_copies(slices: Sequence[SliceFile]) -> list[SliceFile]:
    """Drop exact copies; raises Refused if two files with the same SOPInstanceUID differ."""
    unique: dict[str, SliceFile] = {}
    for file in slices:
        first = unique.setdefault(file.sop_uid, file)
        if first is not file and not _same_bytes(first, file):
            names = f"{first.name} and {file.name}"
            raise Refused(f"{names} have the same SOPInstanceUID but differ", "move the wrong one elsewhere")
    return list(unique.values())


def _same_bytes(one: SliceFile, other: SliceFile) -> bool:
    try:
        return filecmp.cmp(Path(one.path), Path(other.path), shallow=False)
    except OSError as error:
        raise Refused(f"{other.name} cannot be read ({error.strerror})", "check its permissions") from None


def _axial_stack(slices: Sequence[SliceFile]) -> tuple[SliceFile, ...]:
    """Sort slices by ascending z; raises Refused unless they form one axial stack of acceptable size."""
    if len(slices) < 2:
        raise Refused("only one slice, so its spacing is unknown", "provide a series of at least two slices")
    slices = sorted(slices, key=lambda file: file.position_mm[2])
    check_unmixed([file.identity for file in slices])
    _check_same("Rows", [file.shape[0] for file in slices])
    _check_same("Columns", [file.shape[1] for file in slices])
    _check_same("PixelSpacing", [file.pixel_spacing_mm for file in slices])
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
    check_voxels(max(len(slices), round(z_mm[-1] - z_mm[0])), *slices[0].shape)
    return tuple(slices)


def _same_position(one: SliceFile, other: SliceFile) -> Refused:
    """The refusal of two slices at one position; says whether they are one slice under two UIDs."""
    same = one.n_bytes == other.n_bytes and _pixel_bytes(one) == _pixel_bytes(other)
    reason = f"two slices at z = {one.position_mm[2]:g} mm: {one.name} and {other.name}"
    if same:
        return Refused(f"{reason}, the same pixels with two SOPInstanceUIDs", "move one of the two elsewhere")
    return Refused(reason, "export the acquisitions, phases or reconstructions as series of their own")


def _pixel_bytes(file: SliceFile) -> bytes:
    try:
        with open_dicom(Path(file.path)) as stream:
            stream.seek(file.pixels.value)
            return stream.read(min(file.pixels.length, file.size))
    except OSError as error:
        raise Refused(f"{file.name} cannot be read ({error.strerror})", "check its permissions") from None


def _check_same(tag: str, values: Sequence[Hashable]) -> None:
    """Raise Refused if a value differs between the slices of a series."""
    if len(set(values)) > 1:
        shown = ", ".join(sorted(map(str, set(values)))[:3])
        raise Refused(f"{tag} differs between slices ({shown})", "split the series by that value")


def _check_orientation(orientations: NDArray[np.float64]) -> None:
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        raise Refused("slices have different orientations", "split the series by orientation")
    if np.abs(orientations[0] - [1, 0, 0, 0, 1, 0]).max() > ORIENTATION_TOLERANCE:
        shown = "\\".join(f"{v:g}" for v in orientations[0])
        raise Refused(f"ImageOrientationPatient is {shown}, not axial", "reformat the series to axial 1\\0\\0\\0\\1\\0")


def _file_refusal(path: Path, root: Path, refused: Refused) -> Refusal:
    return Refusal(printable(os.path.relpath(path, root)), refused.reason, refused.remedy)
