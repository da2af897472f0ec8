"""Write files atomically, and report why a file cannot be written in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lungtl.settings.errors import system_error

TEMPORARY = ".tmp"


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
