"""`make bench`: what lungtl's own choices cost or save, and how it compares, as ratios measured in one run.

Writes the tables benchmarks/*.csv and prints them. Reading is measured on a real LIDC-IDRI series where the test data
are found, against the packages of the `bench` extra; the rest needs no data. GPUs have a program of their own,
`benchmarks.gpu`.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from pathlib import Path

import pandas as pd

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # `benchmarks` and `tests` are no installed packages

from benchmarks import passes, reading, step, sweep, transfer  # noqa: E402
from lungtl.settings.allocator import keep_freed_memory  # noqa: E402
from tests import real_data  # noqa: E402

SERIES = "lidc_dicom_0063.tar.xz"


def main() -> None:
    """Measure everything, or the parts that are named: `python benchmarks/run.py passes step`."""
    parts = {
        "reading": _reading, "passes": passes.compare, "transfer": transfer.compare, "step": step.compare,
        "sweep": sweep.compare,
    }  # fmt: skip
    keep_freed_memory()  # as the commands do
    wanted = sys.argv[1:] or list(parts)
    if unknown := set(wanted) - set(parts):
        sys.exit(f"error: no part {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    for name in wanted:
        if rows := parts[name]():
            _write(name, rows)


def _reading() -> list[dict[str, str]]:
    archive = real_data.folder() / SERIES
    if not archive.is_file():
        print(f"reading is not measured: no {archive}; set {real_data.VARIABLE}")
        return []
    with tempfile.TemporaryDirectory() as folder, tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
        return reading.compare(next(Path(folder).rglob("*.dcm")).parent)


def _write(name: str, rows: list[dict[str, str]]) -> None:
    table = pd.DataFrame(rows)
    table.to_csv(HERE / f"{name}.csv", index=False)
    print(f"{name}.csv:", table.to_string(index=False), sep="\n")


if __name__ == "__main__":
    main()
