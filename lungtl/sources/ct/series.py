"""Find the CT series below a folder, whatever its layout, and put their slices in order.

Series are told apart by SeriesInstanceUID alone; slices are ordered by their true position along the image
normal. Geometry is never guessed: what is missing or contradicts itself is refused, with the reason.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungtl.errors import LungtlError, Refused
from lungtl.sources.base import Refusal, fingerprint

MAX_MATRIX = 8192  # a header that claims more is damaged, and would claim the memory too
ORIENTATION_TOLERANCE = 1e-3
POSITION_TOLERANCE_MM = 1e-2
MAX_DRIFT_MM = 0.5  # how far slice origins may wander within the plane before the gantry was tilted
TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType", "Manufacturer",
    "SliceThickness", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns",
    "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "RescaleSlope",
    "RescaleIntercept",
]  # fmt: skip


@dataclass(frozen=True)
class SliceFile:
    """The part of one file's header that decides where its slice lies.

    Attributes:
        path: the file.
        sop_uid: SOPInstanceUID.
        position_mm: ImagePositionPatient (x, y, z).
        size: of the file in bytes.
    """

    path: str
    sop_uid: str
    position_mm: tuple[float, float, float]
    size: int


@dataclass(frozen=True)
class Series:
    """One axial CT series in the order of its slices.

    Attributes:
        uid: SeriesInstanceUID.
        files: by ascending z.
        shape: (rows, columns).
        pixel_spacing_mm: (row, column) distance, as DICOM's PixelSpacing.
        slice_thickness_mm: NaN when the header does not say; not the spacing.
        manufacturer: '' when the header does not say.
    """

    uid: str
    files: tuple[SliceFile, ...]
    shape: tuple[int, int]
    pixel_spacing_mm: tuple[float, float]
    slice_thickness_mm: float
    manufacturer: str

    @property
    def z_mm(self) -> NDArray[np.float64]:
        """float64 [n_files], ascending."""
        return np.array([file.position_mm[2] for file in self.files])

    @property
    def native_spacing_mm(self) -> float:
        """Median distance between neighbouring slices."""
        return float(np.median(np.diff(self.z_mm)))

    @property
    def fingerprint(self) -> str:
        """Hash of the slices' identities, positions and file sizes."""
        return fingerprint([[f.sop_uid, list(f.position_mm), f.size] for f in self.files])


def find_series(root: Path, option: str = "dataset.root") -> tuple[list[Series], list[Refusal]]:
    """Read the headers of all files below a folder.

    Args:
        root: searched recursively; links to folders are not followed.
        option: what the user called the folder, for messages.

    Returns:
        The usable series, ordered by UID, and what was refused (files relative to root, series by UID).

    Raises:
        LungtlError: the folder does not exist or holds no DICOM file.
    """
    if not root.is_dir():
        raise LungtlError(f"{option}={root} is not a folder; give the folder that holds the DICOM series")
    headers: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    refusals: list[Refusal] = []
    for path in _files(root, refusals):
        try:
            header = _read_header(path)
        except Refused as refused:
            refusals.append(Refusal(str(path.relative_to(root)), refused.reason, refused.remedy))
            continue
        if header is not None:
            headers[str(header.get("SeriesInstanceUID") or "")].append((str(path), header))
    if not headers and not refusals:
        raise LungtlError(f"no DICOM file below {root}; {option} must be the folder that holds the series")
    series = []
    for uid, members in sorted(headers.items()):
        try:
            series.append(_build(uid, members))
        except Refused as refused:
            refusals.append(Refusal(uid or "(no SeriesInstanceUID)", refused.reason, refused.remedy))
        except Exception as error:  # values are decoded on access, see said()
            refusals.append(Refusal(uid, f"damaged header ({said(error)})", "fetch the series again"))
    return series, refusals


def said(error: Exception) -> str:
    """Repeat what pydicom said of a damaged file, in one line.

    It raises a dozen unrelated types, some derived from Exception alone; none may stop the other series.
    """
    return " ".join(str(error).split())[:200]


def check_gap(series: Series, max_gap_mm: float) -> None:
    """Raise Refused where neighbouring slices lie so far apart that interpolation would invent tissue."""
    gap = float(np.diff(series.z_mm).max())
    if gap > max_gap_mm:
        raise Refused(
            f"a gap of {gap:g} mm between slices",
            f"fetch the missing slices, or accept it with dataset.max_gap_mm={np.ceil(gap):g}",
        )


def _files(root: Path, refusals: list[Refusal]) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        folder = os.path.relpath(error.filename, root)
        refusals.append(Refusal(folder, f"cannot be read ({error.strerror})", "check its permissions"))

    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders.sort()
        yield from (Path(folder, name) for name in sorted(names))


def _read_header(path: Path) -> Any | None:
    """The header of a DICOM file; None for a file that is not one and does not claim to be."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    claims_dicom = path.suffix.lower() in {".dcm", ".dicom", ".ima"}
    try:
        if not path.is_file():
            return None
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        header.get("SeriesInstanceUID")  # decoded here, where damage to it is one file's
        return header
    except InvalidDicomError:
        if claims_dicom:
            raise Refused(f"not a DICOM file ({path.stat().st_size} bytes)", "fetch it again or remove it") from None
        return None
    except OSError as error:
        raise Refused(f"cannot be read ({error.strerror})", "check its permissions") from error
    except Exception as error:
        raise Refused(f"damaged DICOM header ({said(error)})", "fetch the file again") from error


def _build(uid: str, members: list[tuple[str, Any]]) -> Series:
    """Check one series' headers and order them; raises Refused."""
    if not uid:
        raise Refused(f"{len(members)} files without SeriesInstanceUID", "they belong to no series: remove them")
    modality = _only(members, "Modality")
    if modality != "CT":
        raise Refused(f"Modality is {modality}, not CT", "nothing to do: only CT is read")
    for path, header in members:
        _check_slice(Path(path).name, header)
    if len(members) < 2:
        raise Refused("a single slice has no spacing", "give a series of at least two slices")
    shape = (int(_only(members, "Rows")), int(_only(members, "Columns")))
    row_mm, column_mm = (float(v) for v in _only(members, "PixelSpacing"))
    if not (0 < row_mm < 100 and 0 < column_mm < 100):
        raise Refused(f"PixelSpacing is {row_mm}, {column_mm} mm", "mend the header: it must be positive")
    first = members[0][1]
    thickness = first.get("SliceThickness")
    return Series(
        uid=uid,
        files=_ordered(members),
        shape=shape,
        pixel_spacing_mm=(row_mm, column_mm),
        slice_thickness_mm=float("nan") if thickness is None else float(thickness),
        manufacturer=str(first.get("Manufacturer") or ""),
    )


def _check_slice(name: str, header: Any) -> None:
    needed = ("SOPInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows",
              "Columns", "RescaleSlope", "RescaleIntercept")  # fmt: skip
    missing = [tag for tag in needed if header.get(tag) is None]
    if missing:
        raise Refused(f"{name} lacks {', '.join(missing)}", "geometry and HU are never guessed: mend the header")
    if "LOCALIZER" in str(header.get("ImageType")).upper():
        raise Refused(f"{name} is a localizer", "nothing to do: remove it from the series if others are axial")
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise Refused(f"{name} is multi-frame", "convert it to one file a slice")
    if str(header.get("PhotometricInterpretation")) != "MONOCHROME2":
        raise Refused(
            f"{name}: PhotometricInterpretation is {header.get('PhotometricInterpretation')}",
            "CT must be MONOCHROME2",
        )
    if not (0 < int(header.Rows) <= MAX_MATRIX and 0 < int(header.Columns) <= MAX_MATRIX):
        raise Refused(f"{name} claims {header.Rows} x {header.Columns} pixels", "the header is damaged")


def _only(members: list[tuple[str, Any]], tag: str) -> Any:
    """The value that all slices share; raises Refused when they differ."""
    values = {_hashable(header.get(tag)) for _, header in members}
    if len(values) != 1:
        shown = ", ".join(sorted(str(v) for v in values)[:3])
        raise Refused(f"{tag} differs between slices ({shown})", "split the series by that value")
    return values.pop()


def _hashable(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int) else tuple(float(v) for v in value)


def _ordered(members: list[tuple[str, Any]]) -> tuple[SliceFile, ...]:
    """Slices by ascending position along the normal; raises Refused for what is not a plain axial stack."""
    orientations = np.array([[float(v) for v in h.ImageOrientationPatient] for _, h in members])
    if orientations.shape != (len(members), 6) or not np.isfinite(orientations).all():
        raise Refused("ImageOrientationPatient is damaged", "mend the header")
    if np.abs(orientations - orientations[0]).max() > ORIENTATION_TOLERANCE:
        raise Refused("slices have different orientations", "split the series by orientation")
    if np.abs(orientations[0] - [1, 0, 0, 0, 1, 0]).max() > ORIENTATION_TOLERANCE:
        shown = "\\".join(f"{v:g}" for v in orientations[0])
        raise Refused(f"ImageOrientationPatient is {shown}, not axial", "reformat the series to axial 1\\0\\0\\0\\1\\0")
    positions = np.array([[float(v) for v in h.ImagePositionPatient] for _, h in members])
    if positions.shape != (len(members), 3) or not np.isfinite(positions).all():
        raise Refused("ImagePositionPatient is damaged", "mend the header")
    drift = np.ptp(positions[:, :2], axis=0).max()
    if drift > MAX_DRIFT_MM:
        raise Refused(f"slice origins wander {drift:.1f} mm in the plane (tilted gantry?)", "correct the tilt first")
    uids = {str(h.SOPInstanceUID) for _, h in members}
    if len(uids) < len(members):
        raise Refused(f"{len(members) - len(uids)} slices are there twice (same SOPInstanceUID)", "remove the copies")
    order = np.argsort(positions[:, 2], kind="stable")
    steps = np.diff(positions[order, 2])
    if steps.min() < POSITION_TOLERANCE_MM:
        z = positions[order, 2][int(steps.argmin())]
        raise Refused(f"two slices at z = {z:g} mm", "keep one slice a position")
    return tuple(
        SliceFile(members[i][0], str(members[i][1].SOPInstanceUID), (x, y, z), Path(members[i][0]).stat().st_size)
        for i in order
        for x, y, z in [positions[i].tolist()]
    )
