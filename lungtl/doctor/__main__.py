"""`python -m lungtl.doctor`: check installation, data and weights; print PASS, WARN or FAIL with a remedy."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from lungtl.doctor.finding import Finding
from lungtl.runs.folder import data_dir_of
from lungtl.settings import command_line
from lungtl.settings.errors import UsageError
from lungtl.settings.typed import typed

KEYS = ("data_dir", "root")


def examine(data_dir: Path, root: Path | None) -> Iterator[Finding]:
    """Run all checks, the quick ones first; `root` is a folder of DICOM series to check, if any."""
    from lungtl.doctor import dicom_root, environment, storage

    yield from environment.check_python()
    yield from environment.check_packages()
    yield from environment.check_torch()
    yield from environment.check_weights()
    yield from dicom_root.check_annotations()
    yield from storage.check_space(data_dir)
    yield from storage.check_tracking(data_dir)
    yield from storage.check_stores(data_dir)
    yield from storage.check_cache(data_dir)
    yield from storage.check_runs(data_dir)
    if root is not None:
        yield from dicom_root.check_root(root, data_dir, os.cpu_count() or 1)


def main() -> None:
    """Print all findings; exit with 1 if there is a FAIL."""
    parser = argparse.ArgumentParser(
        prog=typed("doctor"), description="Check the installation, the data folder and a folder of DICOM series."
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=FOLDER", help="data_dir=FOLDER of lungtl; root=FOLDER with DICOM series"
    )
    overrides = parser.parse_args().overrides
    root = None
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in KEYS or not value:
            raise UsageError(f"unknown argument {override}; expected data_dir=FOLDER or root=FOLDER")
        if key == "root":
            root = Path(value).expanduser()
    failed = warned = 0
    for finding in examine(data_dir_of(overrides), root):
        failed += finding.status == "FAIL"
        warned += finding.status == "WARN"
        print(finding, flush=True)
    print(f"{failed} FAIL, {warned} WARN")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    command_line.plain(main)
