"""Read the headers of DICOM files: the series of each file, and its slice or the reason why it has none."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from lungtl.settings.errors import Refused
from lungtl.sources.ct.elements import TAGS, Elements, quiet_pydicom
from lungtl.sources.ct.encoding import (
    COPY_AGAIN,
    META_BYTES,
    META_LENGTH,
    UNCOMPRESSED,
    check_length,
    find_pixels,
    open_dicom,
)
from lungtl.sources.ct.slice_file import SliceFile, check_kind, read_slice
from lungtl.sources.files import printable
from lungtl.sources.parallel import parallel
from lungtl.sources.progress import bar

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
DICOMDIR = "1.2.840.10008.1.3.10"
SCOUTS = frozenset({"LOCALIZER", "SCOUT"})
# Codes that may be quoted in messages; other text in this field might be a name.
MODALITIES = frozenset({"CR", "CT", "DX", "MG", "MR", "NM", "OT", "PR", "PT", "REG", "RTDOSE", "RTPLAN", "RTSTRUCT",
                        "RWV", "SC", "SEG", "SR", "US", "XA"})  # fmt: skip
MANY_FILES = 4000  # two seconds of work; fewer files are read before worker processes have started
CHUNK = 500
PREFIX = slice(128, 132)
# By (implicit, little endian): a file without preamble and meta information shows its encoding in its first element.
ENCODINGS: dict[tuple[bool | None, bool | None], str] = {
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (False, False): ExplicitVRBigEndian,
}
MAX_FIRST_LENGTH = 1024
NRRD = (".nrrd", ".nhdr")
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".iso")


@dataclass(frozen=True)
class Header:
    """The header of one DICOM file."""

    path: str  # the file
    series_uid: str  # SeriesInstanceUID, '' if the header has none
    modality: str  # one of MODALITIES, 'missing' or 'unknown'
    localizer: bool  # a scout view, whose geometry differs from the slices of its series
    content: SliceFile | Refused  # the slice, or the reason why the file has none


def read_headers(paths: list[Path], workers: int) -> list[Header | Refused | None]:
    """Read the header of each file, with several processes if there are many; None for files that are not DICOM."""
    if len(paths) < MANY_FILES:
        return _read_chunk(paths)
    headers: list[Header | Refused | None] = []
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with bar("reading headers") as progress:
        for chunk in parallel(_read_chunk, chunks, workers, "reading headers"):
            headers += chunk
            progress(len(headers), len(paths))
    return headers


def _read_chunk(paths: list[Path]) -> list[Header | Refused | None]:
    with quiet_pydicom():
        return [_read_file(path) for path in paths]


def _read_file(path: Path) -> Header | Refused | None:
    """Read and check one file; None for a file that neither is DICOM nor is named like it, and for a DICOMDIR."""
    size = 0
    try:
        size = file_size(path)
        with open_dicom(path) as stream:
            bare = _has_no_preamble(stream)
            tags = [tag for tag, _ in TAGS.values()]
            dataset = dcmread(stream, force=bare, stop_before_pixels=True, specific_tags=tags)
            return _header(path, size, stream, dataset, bare)
    except Refused as refused:
        return refused
    except InvalidDicomError:
        if path.suffix.lower() not in DICOM_SUFFIXES:
            return other_format(path)
        return Refused(f"not a DICOM file ({size} bytes)", f"{COPY_AGAIN}, or move it elsewhere")
    except OSError as error:
        return Refused(f"cannot be read ({error.strerror})", "check its permissions")
    except Exception as error:  # pydicom raises many unrelated types, and quotes the header in their text
        return Refused(f"invalid DICOM header ({type(error).__name__})", COPY_AGAIN)


def file_size(path: Path) -> int:
    """Size in bytes; raises Refused unless it is a regular file that is not empty, and OSError."""
    try:
        status = path.stat()
    except OSError as error:
        if path.is_symlink():
            raise Refused(f"broken link ({error.strerror})", "fix or remove the link") from None
        raise
    if not stat.S_ISREG(status.st_mode):
        raise Refused("not a regular file", "move it elsewhere")
    if status.st_size == 0:
        raise Refused("empty file (0 bytes)", f"{COPY_AGAIN}, or move it elsewhere")
    return status.st_size


def _has_no_preamble(stream: BinaryIO) -> bool:
    """True if a file starts with an element of group 2 or 8 instead of the preamble: old, but DICOM."""
    head = stream.read(META_BYTES)
    stream.seek(0)
    if head[PREFIX] == b"DICM" or len(head) < 8:
        return False
    if head[PREFIX.stop :].startswith(META_LENGTH):
        raise Refused("has a damaged preamble", COPY_AGAIN)
    group, element = head[:2], head[2:4]
    if group in (b"\2\0", b"\x08\0") and element[1] == 0:
        return head[4:6].isupper() or int.from_bytes(head[4:8], "little") <= MAX_FIRST_LENGTH
    return group in (b"\0\2", b"\0\x08") and element[0] == 0 and head[4:6].isupper()


def _header(path: Path, size: int, stream: BinaryIO, dataset: FileDataset, bare: bool) -> Header | None:
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
        content=_slice(path, size, stream, dataset, elements, bare) if modality == "CT" else not_ct(modality),
    )


def _slice(
    path: Path, size: int, stream: BinaryIO, dataset: FileDataset, elements: Elements, bare: bool
) -> SliceFile | Refused:
    start = stream.tell()
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "")
    if bare and not syntax:
        syntax = ENCODINGS.get(dataset.original_encoding, "")
    try:
        check_kind(elements, syntax)
        pixels = find_pixels(stream, start, *dataset.original_encoding)
        file = read_slice(path, size, elements, syntax, pixels)
        check_length(stream, pixels, syntax not in UNCOMPRESSED, file.n_bytes)
    except Refused as refused:
        return Refused(f"{printable(path.name)} {refused.reason}", refused.remedy)
    return file


def not_ct(modality: str) -> Refused:
    """The refusal of another modality."""
    return Refused(f"Modality is {modality}, not CT", "no action required: only CT is read")


def other_format(path: Path) -> Refused | None:
    """The refusal of an NRRD volume, or of an archive, by the file's name; None for other files."""
    name = path.name.lower()
    if name.endswith(NRRD):
        return Refused("an NRRD volume, which is not read", "save it as .nii.gz or .mha, or use its DICOM series")
    for suffix in ARCHIVES:
        if name.endswith(suffix):
            return Refused(f"a {suffix} archive, which is not read", "unpack it")
    return None
