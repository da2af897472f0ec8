"""Let the C library keep the memory that tensors free.

glibc returns every large block to the system when it is freed, and the next tensor of that size is paged in again,
4 KB at a time. For networks with little arithmetic per value, such as EfficientNet-Lite0, paging costs more than the
arithmetic (benchmarks/step.csv). With these settings a process holds its peak memory until it ends. Only the commands
call this; importing lungtl changes nothing.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 2**30
"""Bytes; larger blocks are still returned to the system at once."""
NEVER = -1


def keep_freed_memory() -> bool:
    """Keep freed blocks of up to `LARGEST` bytes; False where the C library is not a glibc that can."""
    return set_thresholds(LARGEST, NEVER)


def set_thresholds(largest: int, trimmed: int) -> bool:
    """Set what glibc keeps, for the rest of the process.

    Args:
        largest: bytes of a block; larger ones are returned to the system when they are freed.
        trimmed: bytes of free memory at the end of the heap above which it is returned; -1: never.

    Returns:
        False if this C library has no such settings; then nothing has changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # glibc before 2.35 rejects a large threshold, and the other setting alone would make matters worse
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, largest)) and bool(mallopt(M_TRIM_THRESHOLD, trimmed))
