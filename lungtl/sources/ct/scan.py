"""Read the headers of many files, in this process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources.ct.header import Header, read_header
from lungtl.sources.ct.stream import quiet_pydicom
from lungtl.sources.progress import bar

MANY_FILES = 4000  # two seconds of work; fewer are done before worker processes have started
CHUNK = 500

Read = Header | Refused | None


def read_headers(paths: list[Path], workers: int) -> list[Read]:
    """Give for each file its header, why it was refused, or None where it is passed over.

    Raises:
        LungtlError: a worker process died.
    """
    if len(paths) < MANY_FILES:
        return _read_chunk(paths)
    found: list[Read] = []
    with bar("reading headers") as progress:
        for chunk in _read_chunks(paths, workers):
            found += chunk
            progress(len(found), len(paths))
    return found


def _read_chunks(paths: list[Path], workers: int) -> Iterator[list[Read]]:
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    if workers <= 1:
        yield from map(_read_chunk, chunks)
        return
    # spawn, not fork: the parent may hold threads (progress bars, BLAS) that a forked child would deadlock on
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(_read_chunk, chunks)
        except BrokenProcessPool as error:
            raise LungtlError("a worker process died while it read headers; run again with workers=1") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _read_chunk(paths: list[Path]) -> list[Read]:
    with quiet_pydicom():
        return [_read(path) for path in paths]


def _read(path: Path) -> Read:
    try:
        return read_header(path)
    except Refused as refused:
        return refused
