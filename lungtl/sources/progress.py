"""Progress bars on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich import console
from rich import progress as rich

SPEED_PERIOD_S = 600  # a scan can take half a minute, so the time left is estimated from many


class Update(Protocol):
    """Set the position of a progress bar."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total`, followed by a note (a rate, the number of refused items)."""


@contextmanager
def bar(title: str) -> Iterator[Update]:
    """A progress bar that appears with its first update; without a terminal, one line is printed at the end."""
    columns = (rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.MofNCompleteColumn(),
               rich.TimeElapsedColumn(), rich.TimeRemainingColumn(),
               rich.TextColumn("{task.fields[note]}", markup=False))  # fmt: skip
    screen = console.Console(stderr=True, markup=False, emoji=False)  # a name in brackets is not markup
    progress = rich.Progress(*columns, console=screen, speed_estimate_period=SPEED_PERIOD_S)
    task = None

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal task
        if task is None:
            task = progress.add_task(title, total=total, note=note)
            progress.start()
        progress.update(task, completed=done, total=total, note=note)

    try:
        yield update
    finally:
        if task is not None:
            progress.stop()
