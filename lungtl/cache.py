"""`python -m lungtl.cache`: what the feature cache holds; `prune=all` or `max_gb=10` makes room."""

from __future__ import annotations

import argparse
from datetime import datetime

from lungtl.data.cache_folder import GB, CacheFolder, Entry
from lungtl.runs.folder import data_dir_of
from lungtl.settings import command_line
from lungtl.settings.errors import UsageError

KEYS = "data_dir=FOLDER, prune=all or max_gb=NUMBER"


def main() -> None:
    """List the entries, the most recently used first, after removing what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m lungtl.cache", description="List or prune the feature cache.")
    parser.add_argument("overrides", nargs="*", metavar="data_dir=FOLDER | prune=all | max_gb=10")
    overrides = parser.parse_args().overrides
    bound = bound_of(overrides)
    folder = CacheFolder(data_dir_of(overrides))
    if bound is not None:
        prune(folder, bound)
    show(folder)


def bound_of(overrides: list[str]) -> float | None:
    """How many bytes may stay: all but 0 for `prune=all`; None when nothing is to be removed."""
    bounds: list[float] = []
    for override in overrides:
        key, separator, value = override.partition("=")
        if key not in ("data_dir", "prune", "max_gb") or not separator:
            raise UsageError(f"unknown argument {override}; wanted {KEYS}")
        if key == "prune":
            if value != "all":
                raise UsageError(f"prune={value}: wanted prune=all; to keep the latest, give max_gb=NUMBER")
            bounds.append(0)
        elif key == "max_gb":
            bounds.append(_bytes(value))
    return min(bounds, default=None)


def prune(folder: CacheFolder, bound: float) -> None:
    """Remove the least recently used entries until `bound` bytes are left; says what was kept all the same."""
    before = len(folder.entries())
    left = folder.shrink(bound)
    print(f"removed {before - len(folder.entries())} of {before} entries")
    if left > bound:
        print(f"{left / GB:.2f} GB stay: runs use or compute them")


def show(folder: CacheFolder) -> None:
    """Print the entries as a table."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    entries = folder.entries()
    if not entries:
        print(f"no entries in {folder.path}")
        return
    table = Table(
        title=f"{folder.path}: {sum(entry.size for entry in entries) / GB:.2f} GB", box=SIMPLE_HEAD, pad_edge=False
    )
    for name in ("entry", "GB", "last used", "store", "backbone", "frozen", "views", "precision"):
        numbers = name in ("GB", "views")
        whole = numbers or name in ("entry", "precision")
        table.add_column(name, justify="right" if numbers else "left", overflow="fold", no_wrap=whole)
    for entry in reversed(entries):
        table.add_row(*_row(entry))
    Console().print(table)


def _row(entry: Entry) -> list[str]:
    about = entry.address
    blocks = "all" if about.get("whole") else f"{about.get('blocks')} blocks"
    return [
        entry.folder.name[:8], f"{entry.size / GB:.2f}", f"{datetime.fromtimestamp(entry.last_used):%Y-%m-%d %H:%M}",
        str(about.get("store_name")), str(about.get("backbone")), f"{blocks} ({about.get('features')})",
        str(about.get("views")), str(about.get("precision")),
    ]  # fmt: skip


def _bytes(value: str) -> float:
    try:
        gb = float(value)
    except ValueError:
        gb = -1
    if not 0 <= gb < float("inf"):
        raise UsageError(f"max_gb={value}: wanted a number of GB, 0 or more, such as max_gb=10")
    return gb * GB


if __name__ == "__main__":
    command_line.plain(main)
