"""Files that are there whole or not at all, and one clear line where the system refuses to write them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lungtl.settings.errors import LungtlError

TEMPORARY = ".tmp"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write a file or folder into a LungtlError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            remedy = "free some space"
        elif error.errno in NO_ACCESS:
            remedy = "make the folder writable or name another with data_dir=FOLDER"
        else:
            remedy = "check the disk and the path"
        raise LungtlError(
            f"cannot write {path} ({error.strerror or error}); {remedy}, then run the same command again: "
            "what is finished is kept"
        ) from error


@contextmanager
def whole_file(path: Path, scratch: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when all of it is written.

    Args:
        path: its final place.
        scratch: an existing folder of the same file system; what a killed process leaves there ends in `TEMPORARY`.

    Raises:
        LungtlError: the disk is full, or the like.
    """
    # The process id, for the worker of a killed run may still be ending.
    temporary = scratch / f"{path.name}.{os.getpid()}{TEMPORARY}"
    with writing(path):
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
