"""A fake index of IDC that replaces the installed idc-index-data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from lungtl.sources.lidc_database import series_uids

VERSION = "0.0.1"
N_FIRST = 3


def first_series(n: int = N_FIRST) -> list[tuple[str, str]]:
    """(patient, SeriesInstanceUID) of LIDC-IDRI's first scans."""
    return sorted((patient, uid) for uid, patient in series_uids().items())[:n]


def uuid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def row(number: int, uid: str, n_files: int, n_bytes: int, **other: Any) -> dict[str, Any]:
    """A row of the index for a CT series; its files have the prefix `uuid(number)`."""
    return {
        "collection_id": "lidc_idri", "Modality": "CT", "SeriesInstanceUID": uid, "StudyInstanceUID": f"1.2.{number}",
        "instanceCount": n_files, "series_size_MB": n_bytes / 1e6, "aws_bucket": "idc-open-data",
        "crdc_series_uuid": uuid(number), **other,
    }  # fmt: skip


def write_package(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a package idc_index_data that a process finds with PYTHONPATH=folder."""
    package = folder / "idc_index_data"
    package.mkdir(parents=True)
    pd.DataFrame(rows).to_parquet(package / "idc_index.parquet")
    (package / "__init__.py").write_text(
        "from pathlib import Path\n"
        f"__version__ = '{VERSION}'\n"
        "IDC_INDEX_PARQUET_FILEPATH = Path(__file__).with_name('idc_index.parquet')\n"
    )


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replace the installed index in this process."""
    table = folder / "idc_index.parquet"
    pd.DataFrame(rows).to_parquet(table)
    module = ModuleType("idc_index_data")
    module.__dict__.update(__version__=VERSION, IDC_INDEX_PARQUET_FILEPATH=table)
    monkeypatch.setitem(sys.modules, "idc_index_data", module)
