"""Load the bags of a source, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from lungtl.data.store.parts import write_part
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import Item, Source

FEW_ITEMS = 8  # fewer are done faster than worker processes start


def write_parts(source: Source, items: list[Item], folder: Path, workers: int) -> Iterator[int | None]:
    """Give what `write_part` returns for each item, in the order in which they are done.

    Raises:
        LungtlError: the disk is full, or a worker process died.
    """
    if workers <= 1 or len(items) < FEW_ITEMS:
        for item in items:
            yield write_part(source, item, folder)
        return
    # spawn, not fork: the parent may hold threads (progress bars, BLAS) that a forked child would deadlock on
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_follow_the_parent) as pool:
        try:
            futures = [pool.submit(write_part, source, item, folder) for item in items]
            for future in as_completed(futures):
                yield future.result()
        except (BrokenProcessPool, MemoryError) as error:
            raise LungtlError(
                f"a worker process died or ran out of memory while it prepared {source.name}; run the same command "
                "again with workers=1: what is finished is kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _follow_the_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it ends: a killed parent cannot tell its workers, which would wait."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
