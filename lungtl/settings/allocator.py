"""Let the C library keep the memory that tensors free.

glibc returns every large block to the system when it is freed, and the next tensor of that size is paged in again,
4 KB at a time. For networks that do little with each number, such as EfficientNet-Lite0, that costs more than their
arithmetic (see benchmarks/step.csv). A process then holds the most that it ever held; what it needs at
once stays the same. It is a process's own choice: the commands make it, importing lungtl does not.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST = 2**30
"""Bytes; larger blocks are still the system's at once."""
NEVER = -1


def keep_freed_memory() -> bool:
    """Tell glibc; whether it could be told. Other C libraries are left as they are."""
    return set_thresholds(LARGEST, NEVER)


def set_thresholds(largest: int, trimmed: int) -> bool:
    """Set what glibc keeps, for the rest of the process.

    Args:
        largest: bytes of a block; larger ones are the system's again once they are freed.
        trimmed: bytes of free memory at the end of the heap from which on it is given back; -1: never.

    Returns:
        Whether this C library can; otherwise nothing has changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # glibc before 2.35 refuses a large threshold, and the other setting alone would make matters worse
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, largest)) and bool(mallopt(M_TRIM_THRESHOLD, trimmed))
