"""One file's header: which series it belongs to, and the slice it holds or why it holds none."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lungtl.settings.errors import Refused
from lungtl.sources.ct.elements import TAGS, Elements
from lungtl.sources.ct.files import printable
from lungtl.sources.ct.pixel_element import check_length, find_pixels
from lungtl.sources.ct.slice_file import SliceFile, check_kind, read_slice
from lungtl.sources.ct.stream import open_dicom
from lungtl.sources.ct.syntaxes import UNCOMPRESSED

if TYPE_CHECKING:
    from pydicom.dataset import FileDataset

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
DICOMDIR = "1.2.840.10008.1.3.10"
SCOUTS = frozenset({"LOCALIZER", "SCOUT"})
# Codes that messages may repeat; anything else in that field may be a name.
MODALITIES = frozenset({"CR", "CT", "DX", "MG", "MR", "NM", "OT", "PR", "PT", "REG", "RTDOSE", "RTPLAN", "RTSTRUCT",
                        "RWV", "SC", "SEG", "SR", "US", "XA"})  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What one DICOM file is.

    Attributes:
        path: the file.
        series_uid: SeriesInstanceUID, '' where the header has none.
        modality: one of MODALITIES, 'missing' or 'unknown'.
        localizer: a scout view, which has another geometry than the slices of its series.
        content: the slice, or why the file holds none.
    """

    path: str
    series_uid: str
    modality: str
    localizer: bool
    content: SliceFile | Refused


def read_header(path: Path) -> Header | None:
    """Read and check one file's header, under `quiet_pydicom`.

    Returns:
        None for a file that is not DICOM and does not claim to be, and for a DICOMDIR.

    Raises:
        Refused: the file cannot be read, or not even its series is known.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        size = _size(path)
        with open_dicom(path) as stream:
            dataset = dcmread(stream, stop_before_pixels=True, specific_tags=[tag for tag, _ in TAGS.values()])
            return _header(path, size, stream, dataset)
    except Refused:
        raise
    except InvalidDicomError:
        if path.suffix.lower() not in DICOM_SUFFIXES:
            return None
        raise Refused(f"not a DICOM file ({size} bytes)", "fetch it again or remove it") from None
    except OSError as error:
        raise Refused(f"cannot be read ({error.strerror})", "check its permissions") from None
    except Exception as error:  # pydicom raises a dozen unrelated types, and quotes the header in their text
        raise Refused(f"damaged DICOM header ({type(error).__name__})", "fetch the file again") from None


def _size(path: Path) -> int:
    try:
        status = path.stat()
    except OSError as error:
        if path.is_symlink():
            raise Refused(f"a link that leads nowhere ({error.strerror})", "mend or remove the link") from None
        raise
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not a regular file", "remove it")
    if status.st_size == 0:
        raise Refused("an empty file (0 bytes)", "fetch it again or remove it")
    return status.st_size


def _header(path: Path, size: int, stream: BinaryIO, dataset: FileDataset) -> Header | None:
    if dataset.file_meta.get("MediaStorageSOPClassUID") == DICOMDIR:
        return None
    elements = Elements(dataset)
    modality = elements.text("Modality") or "missing"
    if modality not in MODALITIES | {"missing"}:
        modality = "unknown"
    return Header(
        path=os.fspath(path),
        series_uid=elements.uid("SeriesInstanceUID"),
        modality=modality,
        localizer=not SCOUTS.isdisjoint(elements.text("ImageType").upper().replace(" ", "").split("\\")),
        content=_content(path, size, stream, dataset, elements) if modality == "CT" else not_ct(modality),
    )


def _content(path: Path, size: int, stream: BinaryIO, dataset: FileDataset, elements: Elements) -> SliceFile | Refused:
    start = stream.tell()
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    try:
        check_kind(elements, syntax)
        pixels = find_pixels(stream, start, *dataset.original_encoding)
        file = read_slice(path, size, elements, syntax, pixels)
        check_length(stream, pixels, syntax not in UNCOMPRESSED, file.n_bytes)
    except Refused as refused:
        return Refused(f"{printable(path.name)} {refused.reason}", refused.remedy)
    return file


def not_ct(modality: str) -> Refused:
    """Say that a file or a series is not CT."""
    return Refused(f"Modality is {modality}, not CT", "nothing to do: only CT is read")
