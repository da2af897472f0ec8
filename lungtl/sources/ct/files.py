"""The files below a folder, links followed."""

from __future__ import annotations

import os
from pathlib import Path

from lungtl.sources.base import Refusal


def walk(root: Path) -> tuple[list[Path], list[Refusal]]:
    """List the files below a folder, in the order of their names.

    Links are followed, to folders too; a folder that several links lead to, or a link back up, is read once.

    Returns:
        The files, and the folders that cannot be listed.
    """
    files: list[Path] = []
    refusals: list[Refusal] = []

    def refuse(error: OSError) -> None:
        folder = printable(os.path.relpath(error.filename, root))
        refusals.append(Refusal(folder, f"cannot be read ({error.strerror})", "check its permissions"))

    read: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        try:
            status = os.stat(folder)  # noqa: PTH116 - os.walk gives text
        except OSError as error:
            subfolders.clear()
            refuse(error)
            continue
        if (status.st_dev, status.st_ino) in read:
            subfolders.clear()
            continue
        read.add((status.st_dev, status.st_ino))
        subfolders.sort()
        files.extend(Path(folder, name) for name in sorted(names))
    return files, refusals


def printable(name: str) -> str:
    """A file name that fits into one line of UTF-8 text: other characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
