"""Find the CT series in a folder of any layout, and sort their slices.

DICOM files are grouped by SeriesInstanceUID alone and sorted by their true position along z. Geometry is never guessed:
a series with missing or contradictory values is refused, with the reason. `docs/dicom.md` lists every case.
"""

from __future__ import annotations

import filecmp
import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources.base import Refusal, fingerprint, sha256
from lungtl.sources.ct.header import Header, not_ct, other_format, read_headers
from lungtl.sources.ct.slice_file import Slice, SliceFile
from lungtl.sources.ct.stack import axial_stack, check_same
from lungtl.sources.ct.volume_file import VolumeSlice, read_slices, volume_name
from lungtl.sources.files import printable, walk

SAFE_ID = re.compile(r"\w([\w .-]*[\w-])?")  # names a folder of results, and is no formula to a spreadsheet
MAX_GB = 2.0  # of a series, native and at 1 mm together: 1,900 slices of 512 x 512 in all


@dataclass(frozen=True)
class Series:
    """One axial CT series."""

    uid: str  # SeriesInstanceUID; of a volume file its name without suffix
    files: tuple[Slice, ...]  # by ascending z

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
        """Hash of the slices' identities, file sizes, positions, spacing, rescale coefficients and padding values.

        Of a volume file, whose slices have no identities, the hash of its content.
        """
        if isinstance(first := self.files[0], VolumeSlice):
            return fingerprint([sha256(Path(path)) for path in sorted({first.path, first.stored.path})])
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
    """Read the headers of all DICOM, MetaImage and NIfTI files in a folder and its subfolders.

    Args:
        root: the folder, or one MetaImage or NIfTI file.
        option: the user's name of it.
        workers: processes at most.
        max_gb: memory for the voxels of a series, native and at 1 mm; a few MB of compressed files may need more.
        follow_links: also those that lead out of the folder.

    Returns:
        The usable series, sorted by UID, and the refused or skipped files (relative to root) and series (by UID).
    """
    is_volume = os.path.isfile(root) and volume_name(root) is not None  # noqa: PTH113 - as below
    if not (is_volume or os.path.isdir(root)):  # noqa: PTH112 - Path.is_dir raises if a parent folder is not accessible
        other = other_format(root) if root.is_file() else None
        problem, remedy = (other.reason, f"{other.remedy}; or ") if other else ("not a folder", "")
        raise LungtlError(f"{option}={root} is {problem}; {remedy}set {option} to the folder with the DICOM series")
    found, refusals = ([root], list[Refusal]()) if is_volume else walk(root, follow_links)
    volumes = [path for path in found if volume_name(path) is not None]
    paths = [path for path in found if volume_name(path) is None]
    headers_of: dict[str, list[Header]] = defaultdict(list)
    for path, header in zip(paths, read_headers(paths, workers), strict=True):
        if isinstance(header, Refused):
            refusals.append(_file_refusal(path, root, header))
        elif header is not None:
            headers_of[header.series_uid].append(header)
    if not headers_of and not refusals and not volumes:
        kinds = Counter(path.suffix for path in paths).most_common(1)
        seen = f" ({len(paths)} files, most are {printable(kinds[0][0]) or 'without extension'})" if kinds else ""
        raise LungtlError(f"no DICOM file in {root}{seen}; set {option} to the folder with the DICOM series")
    series = []
    folder = root.parent if is_volume else root
    for uid, headers in sorted(headers_of.items()):
        try:
            series.append(_build(uid, headers, root, refusals, max_gb))
        except Refused as refused:
            refusals.append(Refusal(uid or "(no SeriesInstanceUID)", refused.reason, refused.remedy))
    ids = [*map(volume_name, volumes), *headers_of]
    names = Counter(name.casefold() for name in ids if name)  # some disks do not tell A from a
    for path in volumes:
        try:
            series.append(_read_volume_file(path, names, None if follow_links else folder.resolve(), max_gb))
        except Refused as refused:
            refusals.append(_file_refusal(path, folder, refused))
    return sorted(series, key=lambda one: one.uid), refusals


def _read_volume_file(path: Path, names: Mapping[str, int], inside: Path | None, max_gb: float) -> Series:
    """A MetaImage or NIfTI file as a series; raises Refused."""
    name = volume_name(path) or ""
    if not SAFE_ID.fullmatch(name):
        remedy = "its name without suffix is the scan's id and names its results; rename it: letters, digits, . _ and -"
        raise Refused("is no usable id", remedy)
    if names[name.casefold()] > 1:
        remedy = "its name without suffix is the scan's id: rename it, or move the others elsewhere"
        raise Refused(f"has the same id as another scan of the folder: {name}", remedy)
    series = Series(name, read_slices(path, inside))
    check_memory(series, max_gb)
    return series


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
    first = series.files[0]
    stored = first.stored.n_bytes if isinstance(first, VolumeSlice) else 0  # a volume file is read at once
    needed = (2 * (len(series.files) + at_1_mm) * rows * columns + stored) / 1e9
    if needed > max_gb:
        raise Refused(
            f"{len(series.files)} slices of {rows} x {columns} ({at_1_mm} at 1 mm) need {needed:.1f} GB of memory, the "
            f"limit is {max_gb:g} GB",
            f"raise the limit: max_gb={np.ceil(needed):g} (of a dataset: dataset.max_gb={np.ceil(needed):g})",
        )


def _build(uid: str, headers: list[Header], root: Path, refusals: list[Refusal], max_gb: float) -> Series:
    """Check and sort one series; raises Refused, and adds skipped files to `refusals`."""
    if not uid:
        count = "1 file has" if len(headers) == 1 else f"{len(headers)} files have"
        raise Refused(f"{count} no SeriesInstanceUID", "fix the headers")
    check_same("Modality", [header.modality for header in headers])
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
    series = Series(uid, axial_stack(unique))
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


def _file_refusal(path: Path, root: Path, refused: Refused) -> Refusal:
    return Refusal(printable(os.path.relpath(path, root)), refused.reason, refused.remedy)
