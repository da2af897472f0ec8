"""The series of a folder, a zip file, a single DICOM file, or a MetaImage or NIfTI volume."""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources.base import Refusal
from lungtl.sources.ct.header import other_format, read_headers
from lungtl.sources.ct.series import Series, find_series
from lungtl.sources.ct.volume_file import volume_name
from lungtl.sources.files import printable

UNPACKED = ".unpacked"
"""Below the output, while a zip file is read."""
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What `zipfile` raises for members that are damaged, encrypted or compressed in another way."""


@dataclass(frozen=True)
class Found:
    """What an input contains."""

    series: tuple[Series, ...]  # by UID
    refusals: tuple[Refusal, ...]
    paths: dict[str, str]  # series UID -> its folder, from the input's name on


@contextmanager
def find_input(path: Path, scratch: Path, max_gb: float, follow_links: bool) -> Iterator[Found]:
    """Find the series of an input, whose files exist until the context ends.

    Args:
        path: a folder, a zip file, a volume file, or one DICOM file: then its series as far as it is in that folder.
        scratch: a folder in which a zip file is unpacked.
        max_gb: memory for the voxels of a series, and size of an unpacked zip file.
        follow_links: also those that lead out of the folder.

    Raises:
        LungtlError: the input does not exist, is of another format, or too large; the refused series do not raise.
    """
    if path.is_file() and zipfile.is_zipfile(path):
        unpacked = scratch / UNPACKED
        shutil.rmtree(unpacked, ignore_errors=True)  # of a killed run
        unpacked.mkdir()
        try:
            names, refusals = _unpack(path, unpacked, max_gb)
            found = _find(unpacked, path.name, max_gb, False, names)
            yield replace(found, refusals=(*refusals, *found.refusals))
        finally:
            shutil.rmtree(unpacked, ignore_errors=True)
    elif path.is_file() and volume_name(path) is None:
        yield _series_of_file(path, max_gb, follow_links)
    else:
        yield _find(path, path.name, max_gb, follow_links)


def _find(root: Path, name: str, max_gb: float, follow_links: bool, names: dict[str, str] | None = None) -> Found:
    """Find the series of a folder; `names` are those of its files if they differ from what users know."""
    series, refusals = find_series(root, "input", max_gb=max_gb, follow_links=follow_links)

    def known(file: str) -> str:
        inside = os.path.relpath(file, root)
        return inside if names is None else names[inside]

    paths = {}
    for one in series:
        folder = os.path.commonpath([os.path.dirname(known(file.path)) for file in one.files])  # noqa: PTH120
        paths[one.uid] = printable(str(PurePosixPath(name, folder)))
    if names is not None:
        refusals = [replace(one, item=printable(names.get(one.item, one.item))) for one in refusals]
    return Found(tuple(series), tuple(refusals), paths)


def _series_of_file(path: Path, max_gb: float, follow_links: bool) -> Found:
    """The series that a file belongs to, from its folder."""
    header = read_headers([path], workers=1)[0]
    if header is None:
        header = other_format(path) or Refused("not a DICOM file", "give a folder, a zip file or a DICOM file")
    if isinstance(header, Refused):
        raise LungtlError(f"input={path}: {header.reason}; {header.remedy}")
    found = _find(path.parent, path.parent.name, max_gb, follow_links)
    kept = tuple(refusal for refusal in found.refusals if refusal.item in (header.series_uid, path.name))
    return Found(tuple(one for one in found.series if one.uid == header.series_uid), kept, found.paths)


def _unpack(archive: Path, folder: Path, max_gb: float) -> tuple[dict[str, str], list[Refusal]]:
    """Unpack the files of a zip file into numbered folders: no path of the archive becomes one.

    Files of one folder stay together, since a MetaImage header names its data, and keep their names, which are the ids
    of volume files.

    Returns:
        Path of each file in the folder -> its name in the archive; and what cannot be unpacked.
    """
    names: dict[str, str] = {}
    folders: dict[PurePosixPath, str] = {}
    refusals = []
    with zipfile.ZipFile(archive) as opened:
        members = [member for member in opened.infolist() if not member.is_dir()]
        size = sum(member.file_size for member in members) / 1e9  # of a member no more than this is ever unpacked
        if size > max_gb:
            raise LungtlError(
                f"input={archive} unpacks to {size:.1f} GB, the limit is {max_gb:g} GB; if you trust it, set "
                f"max_gb={int(size) + 1}, or unpack it yourself"
            )
        for number, member in enumerate(members):
            path = PurePosixPath(member.filename)
            parent = folders.setdefault(path.parent, f"{len(folders):06d}")
            name = os.path.join(parent, re.sub(r"[^\w .-]", "_", path.name)[-80:].lstrip(".") or "_")  # noqa: PTH118
            if (folder / name).exists():  # equal but for characters that are replaced, or for case
                name = os.path.join(f"{number:06d}-alone", os.path.basename(name))  # noqa: PTH118, PTH119
            if stat.S_ISLNK(member.external_attr >> 16):
                refusals.append(Refusal(printable(member.filename), "a link in a zip file", "add the file itself"))
                continue
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                with opened.open(member) as packed, (folder / name).open("wb") as file:
                    shutil.copyfileobj(packed, file)
            except DAMAGED as error:
                (folder / name).unlink(missing_ok=True)
                how = "encrypted" if member.flag_bits & 1 else f"damaged ({type(error).__name__})"
                refusals.append(Refusal(printable(member.filename), f"is {how} in the zip file", "pack it again"))
            else:
                names[name] = _inside(member.filename)
    return names, refusals


def _inside(name: str) -> str:
    """A member's name as a relative path; it is only shown."""
    return str(PurePosixPath(*(part for part in PurePosixPath(name).parts if part not in ("/", "..", "."))))
