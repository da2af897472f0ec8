"""`make bench`: speed compared with other packages, or with and without an optimisation, as ratios measured in one run.

Writes the tables benchmarks/*.csv and prints them. Reading and predicting are measured on a real LIDC-IDRI series if
the test data are found, reading against the packages of the `bench` extra; the rest requires no data. GPUs are measured
by `benchmarks.gpu`.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # `benchmarks` and `tests` are not installed

from benchmarks import memory, passes, prediction, reading, step, sweep, transfer  # noqa: E402
from lungtl.settings.allocator import keep_freed_memory  # noqa: E402
from tests import real_data  # noqa: E402

SERIES = "lidc_dicom_0063.tar.xz"


def main() -> None:
    """Measure everything, or the named parts: `python benchmarks/run.py passes step`."""
    parts: dict[str, Callable[[], list[dict[str, str]]]] = {
        "reading": partial(_on_real_series, reading.compare),
        "prediction": partial(_on_real_series, prediction.compare),
        "passes": passes.compare, "transfer": transfer.compare, "step": step.compare, "memory": memory.compare,
        "sweep": sweep.compare,
    }  # fmt: skip
    keep_freed_memory()  # as the commands do
    names = sys.argv[1:] or list(parts)
    if unknown := set(names) - set(parts):
        sys.exit(f"error: unknown part {', '.join(sorted(unknown))}; the parts are {', '.join(parts)}")
    for name in names:
        if rows := parts[name]():
            _write(name, rows)


def _on_real_series(compare: Callable[[Path], list[dict[str, str]]]) -> list[dict[str, str]]:
    archive = real_data.folder() / SERIES
    if not archive.is_file():
        print(f"not measured: {archive} is missing; set {real_data.VARIABLE}")
        return []
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        return compare(next(Path(folder).rglob("*.dcm")).parent)


def _write(name: str, rows: list[dict[str, str]]) -> None:
    table = pd.DataFrame(rows)
    table.to_csv(HERE / f"{name}.csv", index=False)
    print(f"{name}.csv:", table.to_string(index=False), sep="\n")


if __name__ == "__main__":
    main()
