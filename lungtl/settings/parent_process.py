"""Let a process end with the one that started it, which may be killed and then cannot end it."""

from __future__ import annotations

import os
import threading
import time

PARENT = "LUNGTL_PARENT"
"""Environment variable: id of the process that starts others, which end with it."""
POLL = 0.5  # seconds between two looks at the parent process


def follow_parent(parent: int) -> None:
    """Watch the parent process from now on, and end this process within a second of it.

    Not by the end of a pipe, as `multiprocessing` does: another process may have inherited its other end.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def follow_named_parent() -> None:
    """Follow the process that `PARENT` names, once, unless it is this process."""
    named = os.environ.get(PARENT)
    if named is not None and int(named) != os.getpid():
        del os.environ[PARENT]  # the processes of this one are its own
        follow_parent(int(named))
