"""Apply a function to many items in worker processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from lungtl.settings.errors import LungtlError
from lungtl.settings.parent_process import follow_parent

T = TypeVar("T")
R = TypeVar("R")


def parallel(function: Callable[[T], R], items: Sequence[T], workers: int, task: str) -> Iterator[R]:
    """Yield the result for each item, in order; a single worker is this process.

    Raises LungtlError if a worker process died while `task`, such as "reading headers".
    """
    if workers <= 1:
        yield from map(function, items)
        return
    # spawn, not fork: threads of the parent (progress bars, BLAS) could deadlock a forked child
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(items)), mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)
    ) as pool:
        try:
            with main_hidden():  # map starts the processes
                results = pool.map(function, items)
            yield from results
        except (BrokenProcessPool, MemoryError) as error:
            raise LungtlError(
                f"a worker process died or ran out of memory while {task}; rerun the same command with workers=1: "
                "finished work is kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def main_hidden() -> Iterator[None]:
    """Keep processes that are spawned meanwhile from importing the user's script, which they do not need.

    Without `if __name__ == "__main__":` the script would start again in each of them, and wait for a lock forever.
    """
    main = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)


def _start_worker(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    follow_parent(parent)
