"""Write files atomically, and report why a file cannot be written in one line."""

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
def explain_write_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing a file or folder into a LungtlError with a remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_SPACE:
            remedy = "free some space"
        elif error.errno in NO_ACCESS:
            remedy = "make the folder writable or set data_dir=FOLDER"
        else:
            remedy = "check the disk and the path"
        raise LungtlError(
            f"cannot write {path} ({error.strerror or error}); {remedy}, then rerun the same command: "
            "finished work is kept"
        ) from error


@contextmanager
def whole_file(path: Path, scratch: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name only when complete; until then it is in `scratch`, on the same file system."""
    # With the process id, because the worker of a killed run may still be running.
    temporary = scratch / f"{path.name}.{os.getpid()}{TEMPORARY}"
    with explain_write_errors(path):
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
