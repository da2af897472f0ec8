"""The files in a folder, and tables of text."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from pathlib import Path

from lungtl.settings.errors import LungtlError
from lungtl.sources.base import UNKNOWN, Refusal, fingerprint

LABELS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1} | dict.fromkeys(
    ("", "nan", "na", "<na>", "none", "null"), UNKNOWN
)
"""Spellings of a bag's label in lower case: those of pandas (1.0 if others are missing), R and spreadsheets."""

DATA_DIR = Path("stores", ".known")
"""Where each data folder of lungtl has its list of stores."""

FOLLOW_LINKS = "no action required; to follow links that you trust: follow_links=true (dataset.follow_links=true)"


def walk(root: Path, follow_links: bool = True) -> tuple[list[Path], list[Refusal]]:
    """All files in a folder and its subfolders, sorted by name, and what is not read.

    Links are followed, including links to folders; a folder reached more than once is read once. Without
    `follow_links`, a link out of the folder is refused: a stranger's may lead anywhere on this machine. A data folder
    of lungtl below the root is skipped: what lungtl writes there is no input.
    """
    files: list[Path] = []
    refusals: list[Refusal] = []
    inside = os.path.realpath(root)

    def leaves(folder: str, name: str) -> bool:
        path = os.path.join(folder, name)  # noqa: PTH118 - os.walk returns strings
        if follow_links or not os.path.islink(path):  # noqa: PTH114
            return False
        target = os.path.realpath(path)
        if target == inside or target.startswith(os.path.join(inside, "")):  # noqa: PTH118
            return False
        refusals.append(Refusal(printable(os.path.relpath(path, root)), "a link out of the folder", FOLLOW_LINKS))
        return True

    def refuse(error: OSError) -> None:
        folder = printable(os.path.relpath(error.filename, root))
        refusals.append(Refusal(folder, f"cannot be read ({error.strerror})", "check its permissions"))

    visited: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(root, onerror=refuse, followlinks=True):
        try:
            status = os.stat(folder)  # noqa: PTH116 - os.walk returns strings
        except OSError as error:
            subfolders.clear()
            refuse(error)
            continue
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(
            name for name in subfolders if not (leaves(folder, name) or (Path(folder, name) / DATA_DIR).is_dir())
        )
        files.extend(Path(folder, name) for name in sorted(names) if not leaves(folder, name))
    return files, refusals


def listing_hash(paths: Iterable[Path], follow_links: bool = True) -> str:
    """Hash of the files in the given files and folders: relative path, size, modification time, permissions."""
    rows = []
    for path in paths:
        for file in [path] if path.is_file() else [p for p in walk(path, follow_links)[0] if p.is_file()]:
            stat = file.stat()
            rows.append([str(file.relative_to(path.parent)), stat.st_size, stat.st_mtime_ns, stat.st_mode])
    return fingerprint(rows)


def read_csv(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Column names and rows of a CSV file in UTF-8, without surrounding spaces; raises LungtlError.

    Empty lines are skipped, and empty values beyond the last column. Lines that are longer or shorter than the header
    are refused, because their values may be in the wrong columns.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [value.strip() for value in line]) for line in reader if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise LungtlError(f"{path.name} is not a readable CSV file ({error}); save it as CSV in UTF-8") from error
    columns = lines[0][1] if lines else []
    for number, line in lines[1:]:
        if len(line) < len(columns) or any(line[len(columns) :]):
            raise LungtlError(
                f"{path.name} line {number} has {len(line)} values, the header has {len(columns)} columns; name every "
                "column, and quote values that contain commas"
            )
    return columns, [dict(zip(columns, line, strict=False)) for _, line in lines[1:]]


def printable(name: str) -> str:
    """A file name as one line of valid UTF-8; other characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
