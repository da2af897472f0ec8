"""Progress: a bar on a terminal, otherwise a line in the log now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich import console
from rich import progress as rich

log = logging.getLogger(__name__)
LINE_PERIOD_S = 30  # between lines of the log
SPEED_PERIOD_S = 600  # a scan can take half a minute, so the time left is estimated from many


class Update(Protocol):
    """Set the position of a progress bar."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show `done` of `total`, followed by a note (a rate, the number of refused items)."""


@contextmanager
def bar(title: str) -> Iterator[Update]:
    """A progress bar that appears with its first update; without a terminal, a line every 30 s and one at the end.

    The log has the last line in either case; what it prints meanwhile appears above the bar.
    """
    screen = console.Console(stderr=True, markup=False, emoji=False)  # a name in brackets is not markup
    shown = screen.is_terminal or screen.is_jupyter
    columns = (rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.MofNCompleteColumn(),
               rich.TimeElapsedColumn(), rich.TimeRemainingColumn(),
               rich.TextColumn("{task.fields[note]}", markup=False))  # fmt: skip
    progress = rich.Progress(*columns, console=screen, speed_estimate_period=SPEED_PERIOD_S)
    task = None
    start = line_at = time.monotonic()
    state: tuple[int, int, str] | None = None

    def line(done: int, total: int, note: str) -> str:
        seconds = time.monotonic() - start
        left = f", {_minutes(seconds * (total - done) / done)} left" if 0 < done < total else ""
        return f"{title}: {done}/{total} in {_minutes(seconds)}{left}{note and f', {note}'}"

    consoles = [one for one in logging.getLogger().handlers if getattr(one, "stream", None) is sys.stderr]

    def print_to_current_stderr() -> None:  # rich replaces it while the bar is shown
        for handler in consoles:
            assert isinstance(handler, logging.StreamHandler)
            handler.setStream(sys.stderr)

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal task, state, line_at
        state = (done, total, note)
        if not shown:
            if time.monotonic() - line_at >= LINE_PERIOD_S:
                line_at = time.monotonic()
                log.info("%s", line(*state))
            return
        if task is None:
            task = progress.add_task(title, total=total, note=note)
            progress.start()
            print_to_current_stderr()
        progress.update(task, completed=done, total=total, note=note)

    try:
        yield update
    finally:
        if task is not None:
            progress.stop()
            print_to_current_stderr()
        if state is not None:
            log.log(logging.DEBUG if shown else logging.INFO, "%s", line(*state))


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
