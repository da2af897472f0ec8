"""`train.log` in a run's folder: what the command prints, and every epoch."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lungtl.settings.errors import LungtlError

LOG = "train.log"


@contextmanager
def logged(folder: Path, *, quiet: bool = False) -> Iterator[None]:
    """Append the log, with times and details, to the folder's train.log.

    Args:
        folder: of the run.
        quiet: print only warnings and errors meanwhile, as for a run of a sweep.
    """
    ours, root = logging.getLogger("lungtl"), logging.getLogger()
    file = logging.FileHandler(folder / LOG, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    level, consoles = ours.level, [one for one in root.handlers if getattr(one, "stream", None) is sys.stderr]
    earlier = [console.level for console in consoles]
    for console in consoles:
        console.setLevel(logging.WARNING if quiet else logging.INFO)
    own: list[logging.Handler] = [file]
    if not root.handlers:  # in a notebook; with any handler Python no longer prints warnings by itself
        own.append(logging.StreamHandler())
        own[-1].setLevel(logging.WARNING)
    for handler in own:
        root.addHandler(handler)
    ours.setLevel(logging.DEBUG)
    try:
        yield
    except BaseException as error:
        record = ours.makeRecord(ours.name, logging.ERROR, "", 0, "%s", (str(error) or type(error).__name__,), None)
        if not isinstance(error, (LungtlError, KeyboardInterrupt)):
            record.exc_info = sys.exc_info()
        file.emit(record)
        raise
    finally:
        ours.setLevel(level)
        for handler in own:
            root.removeHandler(handler)
            handler.close()
        for console, before in zip(consoles, earlier, strict=True):
            console.setLevel(before)


@contextmanager
def repeats_omitted(name: str) -> Iterator[None]:
    """Log each line of the module `name` once: the members of an ensemble share much of what they say."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        known = len(seen)
        seen.add(record.getMessage())
        return len(seen) > known

    logger = logging.getLogger(name)
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)


def detail_level() -> int:
    """Level of messages that a terminal shows as a progress bar: printed without one, in train.log always."""
    return logging.DEBUG if sys.stderr.isatty() else logging.INFO
