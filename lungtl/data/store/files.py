"""Write files atomically, report why one cannot be written in one line, and notice files that were altered."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lungtl.settings.errors import LungtlError, system_error
from lungtl.sources.base import sha256

TEMPORARY = ".tmp"
SUMS = "SHA256SUMS"  # of a folder's files, as `sha256sum --check` reads it


@contextmanager
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing a file or folder into a LungtlError with a remedy."""
    try:
        yield
    except OSError as error:
        raise system_error(error, path) from error


@contextmanager
def whole_file(path: Path, scratch: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name only when complete; until then it is in `scratch`, on the same file system."""
    # With the process id, because the worker of a killed run may still be running.
    temporary = scratch / f"{path.name}.{os.getpid()}{TEMPORARY}"
    with explain_write_errors(path):
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    """Write the checksums of those of these files that the folder has."""
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names if (folder / name).is_file()]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_checksums(folder: Path) -> None:
    """Raise LungtlError if a file differs from its checksum; a folder without checksums is not checked."""
    path = folder / SUMS
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        digest, _, name = line.partition("  ")
        file = folder / Path(name).name
        if not file.is_file() or sha256(file) != digest:
            raise LungtlError(f"{file} was altered: its SHA-256 is not that of {path.name}; restore the folder")
