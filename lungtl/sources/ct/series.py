"""Find the CT series below a folder, whatever its layout, and put their slices in order.

Series are told apart by SeriesInstanceUID alone; slices are ordered by their true position along z. Geometry is never
guessed: what is missing or contradicts itself is refused, with the reason. `docs/dicom.md` has every case.
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources.base import Refusal, fingerprint
from lungtl.sources.ct.files import printable, walk
from lungtl.sources.ct.header import Header, not_ct
from lungtl.sources.ct.scan import read_headers
from lungtl.sources.ct.slice_file import SliceFile
from lungtl.sources.ct.stack import axial_stack, check_same, without_copies


@dataclass(frozen=True)
class Series:
    """One axial CT series in the order of its slices.

    Attributes:
        uid: SeriesInstanceUID.
        files: by ascending z.
    """

    uid: str
    files: tuple[SliceFile, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.files[0].shape

    @property
    def pixel_spacing_mm(self) -> tuple[float, float]:
        """(row, column) distance, as DICOM's PixelSpacing."""
        return self.files[0].pixel_spacing_mm

    @property
    def slice_thickness_mm(self) -> float:
        """Of the lowest slice; NaN when its header does not say. Not the spacing."""
        return self.files[0].slice_thickness_mm

    @property
    def manufacturer(self) -> str:
        """A vendor's name, 'other', or '' when the header does not say."""
        return self.files[0].manufacturer

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
        """Hash of the slices' identities, file sizes, positions, spacing and rescale coefficients."""
        return fingerprint(
            [[f.sop_uid, f.size, f.position_mm, f.pixel_spacing_mm, f.slope, f.intercept] for f in self.files]
        )


def find_series(root: Path, option: str = "dataset.root", workers: int = 1) -> tuple[list[Series], list[Refusal]]:
    """Read the headers of all files below a folder.

    Args:
        root: searched recursively; links are followed, each real folder is read once.
        option: what the user called the folder, for messages.
        workers: processes that read headers, where there are thousands of files.

    Returns:
        The usable series, ordered by UID, and what was refused or left out (files relative to root, series by UID).

    Raises:
        LungtlError: the folder does not exist or holds no DICOM file.
    """
    if not os.path.isdir(root):  # noqa: PTH112 - Path.is_dir raises where a parent folder is closed
        raise LungtlError(f"{option}={root} is not a folder; give the folder that holds the DICOM series")
    paths, refusals = walk(root)
    members: dict[str, list[Header]] = defaultdict(list)
    for path, read in zip(paths, read_headers(paths, workers), strict=True):
        if isinstance(read, Refused):
            refusals.append(_file_refusal(path, root, read))
        elif read is not None:
            members[read.series_uid].append(read)
    if not members and not refusals:
        raise LungtlError(f"no DICOM file below {root}; {option} must be the folder that holds the series")
    series = []
    for uid, headers in sorted(members.items()):
        try:
            series.append(_build(uid, headers, root, refusals))
        except Refused as refused:
            refusals.append(Refusal(uid or "(no SeriesInstanceUID)", refused.reason, refused.remedy))
    return series, refusals


def check_gap(series: Series, max_gap_mm: float) -> None:
    """Raise Refused where neighbouring slices lie so far apart that interpolation would invent tissue."""
    gap = series.largest_gap_mm
    if gap > max_gap_mm:
        raise Refused(
            f"a gap of {gap:g} mm between slices",
            f"fetch the missing slices, or accept it with dataset.max_gap_mm={np.ceil(gap):g}",
        )


def _build(uid: str, headers: list[Header], root: Path, refusals: list[Refusal]) -> Series:
    """Check one series and order it; raises Refused, and notes the files that it goes on without."""
    if not uid:
        raise Refused(f"{len(headers)} files without SeriesInstanceUID", "they belong to no series: remove them")
    check_same("Modality", [header.modality for header in headers])
    if headers[0].modality != "CT":
        raise not_ct(headers[0].modality)
    slices = _slices([header for header in headers if not header.localizer])
    kept = without_copies(slices)
    series = Series(uid, axial_stack(kept))
    localizer = Refused("a localizer, not a slice of its series", "nothing to do: the slices are read without it")
    refusals.extend(_file_refusal(Path(header.path), root, localizer) for header in headers if header.localizer)
    if len(kept) < len(slices):
        copies = f"{len(slices) - len(kept)} copies of slices left out (same SOPInstanceUID, same bytes)"
        refusals.append(Refusal(uid, copies, "nothing to do: the series is read without them"))
    return series


def _slices(headers: list[Header]) -> list[SliceFile]:
    """The slices; raises Refused where a file holds none: a series is never read without a slice it should have."""
    if not headers:
        raise Refused("nothing but localizers", "nothing to do: they show no slices")
    slices = []
    for header in headers:
        if isinstance(header.content, Refused):
            raise header.content
        slices.append(header.content)
    return slices


def _file_refusal(path: Path, root: Path, refused: Refused) -> Refusal:
    return Refusal(printable(os.path.relpath(path, root)), refused.reason, refused.remedy)
