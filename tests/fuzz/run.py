"""`make fuzz`: read odd and damaged series in limited worker processes; exit with 1 if any result is wrong.

python -m tests.fuzz [SERIES [FIRST_SEED]]
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import tempfile
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from lungtl.sources.progress import bar
from tests.fuzz.confirm import read_everything
from tests.fuzz.mutate import write_mutated
from tests.fuzz.oddities import read_as_expected, write_odd

SERIES, PORTION = 10_000, 100
SHOWN = 10  # failures
SECONDS = 20  # for one series: more is a hang
MEMORY_BYTES = 3 * 2**30  # of a worker's address space: tiny series, so more is a blow-up


def main(count: int = SERIES, first: int = 0) -> int:
    """Fuzz, and report.

    Args:
        count: how many series.
        first: seed of the first.

    Returns:
        The exit status: 1 when anything but a named error or a confirmed volume came out.
    """
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    context = multiprocessing.get_context("spawn")
    portions = [range(s, min(s + PORTION, first + count)) for s in range(first, first + count, PORTION)]
    with (
        ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=bounded) as pool,
        bar("fuzzing the DICOM reader") as progress,
    ):
        for done, future in enumerate(as_completed([pool.submit(fuzz, seeds) for seeds in portions]), start=1):
            counted, failed = future.result()
            outcomes += counted
            failures += failed
            progress(min(done * PORTION, count), count, f"{len(failures)} failures")
    print(f"{count} series: {outcomes['volume']} volumes, each confirmed; {outcomes['refused']} refused")
    print("\n".join(failures[:SHOWN]), end="")
    return 1 if failures else 0


def bounded() -> None:
    """Limit a worker: too much memory raises MemoryError, a hang raises TimeoutError."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    def late(signum: int, frame: object) -> None:
        raise TimeoutError(f"one series took more than {SECONDS} s")

    signal.signal(signal.SIGALRM, late)


def fuzz(seeds: range) -> tuple[Counter[str], list[str]]:
    """Outcomes of a range of seeds, and the failures; even seeds damage a series, odd ones draw a legal oddity."""
    outcomes: Counter[str] = Counter()
    failures = []
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            odd = write_odd(root, seed) if seed % 2 else None
            done = odd.names if odd else write_mutated(root, seed)
            signal.alarm(SECONDS)
            try:
                outcomes[read_as_expected(root, odd) if odd else read_everything(root)] += 1
            except Exception:  # any other error is a bug
                failures.append(f"seed {seed}: {'; '.join(done)}\n{traceback.format_exc()}")
            finally:
                signal.alarm(0)
    return outcomes, failures
