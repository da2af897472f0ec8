"""`python -m lungtl.cache`: list the feature cache; `prune=all` or `max_gb=10` removes entries."""

from __future__ import annotations

import argparse
from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lungtl.data.cache_folder import GB, CacheFolder, Entry
from lungtl.runs.folder import data_dir_of
from lungtl.settings import command_line
from lungtl.settings.errors import UsageError

KEYS = "data_dir=FOLDER, prune=all or max_gb=NUMBER"


def main() -> None:
    """Remove entries if requested, then list the remaining ones, the most recently used first."""
    parser = argparse.ArgumentParser(prog="python -m lungtl.cache", description="List or prune the feature cache.")
    parser.add_argument("overrides", nargs="*", metavar="data_dir=FOLDER | prune=all | max_gb=10")
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
        if key == "prune":
            if value != "all":
                raise UsageError(f"prune={value}: expected prune=all; to keep recent entries, set max_gb=NUMBER")
            limits.append(0)
        elif key == "max_gb":
            limits.append(_bytes(value))
    return min(limits, default=None)


def prune(folder: CacheFolder, limit: float) -> None:
    """Remove the least recently used entries until at most `limit` bytes remain; report entries in use."""
    before = len(folder.entries())
    remaining = folder.shrink(limit)
    print(f"removed {before - len(folder.entries())} of {before} entries")
    if remaining > limit:
        print(f"{remaining / GB:.2f} GB are in use and were kept")


def show(folder: CacheFolder) -> None:
    """Print the entries as a table."""
    entries = folder.entries()
    if not entries:
        print(f"no entries in {folder.path}")
        return
    table = Table(
        title=f"{folder.path}: {sum(entry.size for entry in entries) / GB:.2f} GB", box=SIMPLE_HEAD, pad_edge=False
    )
    for name in ("entry", "GB", "last used", "store", "backbone", "frozen", "views", "precision"):
        numbers = name in ("GB", "views")
        no_wrap = numbers or name in ("entry", "precision")
        table.add_column(name, justify="right" if numbers else "left", overflow="fold", no_wrap=no_wrap)
    for entry in reversed(entries):
        table.add_row(*_row(entry))
    Console(markup=False, emoji=False).print(table)


def _row(entry: Entry) -> list[str]:
    address = entry.address
    blocks = "all" if address.get("whole") else f"{address.get('blocks')} blocks"
    return [
        entry.folder.name[:8], f"{entry.size / GB:.2f}", f"{datetime.fromtimestamp(entry.last_used):%Y-%m-%d %H:%M}",
        str(address.get("store_name")), str(address.get("backbone")), f"{blocks} ({address.get('features')})",
        str(address.get("views")), str(address.get("precision")),
    ]  # fmt: skip


def _bytes(value: str) -> float:
    try:
        gb = float(value)
    except ValueError:
        gb = -1
    if not 0 <= gb < float("inf"):
        raise UsageError(f"max_gb={value}: expected a number of GB, 0 or more, such as max_gb=10")
    return gb * GB


if __name__ == "__main__":
    command_line.plain(main)
