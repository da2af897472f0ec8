"""The files in a folder, and tables of text."""

from __future__ import annotations

import csv
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
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


def labelled_lines(
    path: Path, required: Sequence[str], synonyms: Mapping[str, str] | None = None
) -> Iterator[tuple[str, dict[str, str], int]]:
    """Of each line of a table of series: where it is, its values by column, its label.

    Args:
        path: of the table.
        required: columns; without "label" among them, labels are not read but UNKNOWN.
        synonyms: other names of columns -> ours.

    Raises:
        LungtlError: a column is missing or repeated, or a line has no series_uid or another label.
    """
    columns, lines = read_csv(path)
    ours = {column: (synonyms or {}).get(column, column) for column in columns}
    for name in required:
        if (count := [ours[column] for column in columns].count(name)) != 1:
            problem, found = f"several columns {name}" if count else f"no column {name}", ", ".join(columns)
            raise LungtlError(
                f"{path.name} has {problem} (it has {found}); expected {', '.join(required)}, separated by commas"
            )
    for number, values in enumerate(lines, start=2):
        where, line = f"{path.name} line {number}", {ours[column]: value for column, value in values.items()}
        if not line["series_uid"]:
            raise LungtlError(f"{where}: no series_uid; fill it in")
        label = LABELS.get(line["label"].lower()) if "label" in required else UNKNOWN
        if label is None:
            raise LungtlError(f"{where}: label is '{line['label']}'; expected 0, 1 or empty (unknown)")
        yield where, line, label


def finite(text: str) -> float:
    """A text as a finite number; NaN if it is none."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder, which may not exist yet."""
    return shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.is_dir())).free


def printable(name: str) -> str:
    """A file name as one line of valid UTF-8; other characters are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
