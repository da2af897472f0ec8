"""`python -m lungtl.cache`: list the feature cache; `prune=all` or `max_gb=10` removes entries."""

from __future__ import annotations

import argparse
import re
import textwrap
from datetime import datetime

from lungtl.data.cache_folder import GB, CacheFolder, Entry
from lungtl.evaluation.formatting import format_size
from lungtl.runs.folder import data_dir_of
from lungtl.settings import command_line
from lungtl.settings.errors import UsageError
from lungtl.settings.typed import typed

KEYS = "data_dir=FOLDER, prune=all or max_gb=NUMBER"


def main() -> None:
    """Remove entries if requested, then list the remaining ones, the most recently used first."""
    parser = argparse.ArgumentParser(prog=typed("cache"), description="List the feature cache, or remove entries.")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE",
        help="data_dir=FOLDER of lungtl; prune=all removes all entries; max_gb=10 keeps the most recently used ones",
    )  # fmt: skip
    overrides = parser.parse_args().overrides
    limit = size_limit(overrides)
    folder = CacheFolder(data_dir_of(overrides))
    if limit is not None:
        prune(folder, limit)
    show(folder)


def size_limit(overrides: list[str]) -> float | None:
    """Maximum size in bytes: 0 for `prune=all`, None if nothing is to be removed."""
    limits: list[float] = []
    for override in overrides:
        key, separator, value = override.partition("=")
        if key not in ("data_dir", "prune", "max_gb") or not separator:
            raise UsageError(f"unknown argument {override}; expected {KEYS}")
        if key == "prune" and value != "all":
            raise UsageError(f"prune={value}: expected prune=all; to keep recent entries, set max_gb=NUMBER")
        if key == "max_gb" and not re.fullmatch(r"\d+\.?\d*(e[+-]?\d+)?", value):
            raise UsageError(f"max_gb={value}: expected a number of GB, 0 or more, such as max_gb=10")
        if key != "data_dir":
            limits.append(0 if key == "prune" else float(value) * GB)
    return min(limits, default=None)


def prune(folder: CacheFolder, limit: float) -> None:
    """Remove the least recently used entries until at most `limit` bytes remain; report entries in use."""
    before = len(folder.entries())
    remaining = folder.shrink(limit)
    print(f"removed {before - len(folder.entries())} of {plural_entries(before)}")
    if remaining > limit:
        print(f"{format_size(remaining)} in use were kept")


def show(folder: CacheFolder) -> None:
    """Print the entries, two or three lines each."""
    entries = folder.entries()
    if not entries:
        print(f"no entries in {folder.path}")
        return
    print(f"{folder.path}: {format_size(sum(entry.size for entry in entries))} in {plural_entries(len(entries))}")
    for entry in reversed(entries):
        print("\n".join(_lines(entry)))


def plural_entries(count: int) -> str:
    """'1 entry', '2 entries'."""
    return "1 entry" if count == 1 else f"{count} entries"


def _lines(entry: Entry) -> list[str]:
    address = entry.address
    image = address.get("preprocessing", {})
    used = f"{datetime.fromtimestamp(entry.last_used):%Y-%m-%d %H:%M}"
    details = [
        f"{address.get('backbone')}",
        f"weights {str(address.get('weights'))[:8]}",
        "all blocks" if address.get("whole") else f"{address.get('blocks')} blocks",
        f"{address.get('features')}",
        *(f"{mm:g} mm" for mm in image.get("crop_mm", ())),
        *([f"crop {image['crop']} px"] if image.get("crop") else []),
        f"{image.get('size')} px",
    ]
    if (views := int(address.get("views", 1))) > 1:
        details.append(f"{views} views")
    if (precision := str(address.get("precision"))) != "float32":
        details.append(precision)
    return [
        f"{entry.folder.name[:8]}  {format_size(entry.size):>8}  used {used}  {address.get('store_name')}",
        *textwrap.wrap(", ".join(details), width=80, initial_indent="  ", subsequent_indent="  "),
    ]


if __name__ == "__main__":
    command_line.plain(main)
