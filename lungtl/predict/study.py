"""What DICOM files about a series take from it: the study they belong to, and references to its slices.

Nothing else of a header is read: no comments, institutions, descriptions or other identifiers.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from lungtl.settings.errors import Refused, first_line
from lungtl.sources.ct.series import Series

IDENTIFICATION = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID",
                  "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName")  # fmt: skip
"""What files a PACS's object under its patient and study; unknown values are empty."""
VALID = {
    "PatientBirthDate": r"\d{8}",
    "PatientSex": "[MFO]",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?",
}
"""Values of another form are left empty: no program should stumble over them."""
REMEDY = "fix the header, or use dicom_out=false"


@dataclass(frozen=True)
class Study:
    """Where results of a series are filed, and what they refer to.

    Attributes:
        identification: keyword -> value of `IDENTIFICATION`.
        series_uid: of the images.
        frame_of_reference_uid: of their coordinates; "" if unknown.
        classes: SOPInstanceUID -> SOPClassUID of every slice, from the feet to the head.
    """

    identification: Mapping[str, str]
    series_uid: str
    frame_of_reference_uid: str
    classes: Mapping[str, str]

    def references(self) -> list[Dataset]:
        """A data set for each slice: the study's identification and the slice's UIDs."""
        return [self._reference(uid, class_uid) for uid, class_uid in self.classes.items()]

    def _reference(self, uid: str, class_uid: str) -> Dataset:
        dataset = Dataset()
        for keyword, value in self.identification.items():
            setattr(dataset, keyword, value)
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID, dataset.SOPClassUID = self.series_uid, uid, class_uid
        return dataset


def read_study(series: Series) -> Study:
    """Read the study of a series from the headers of its files.

    Raises:
        Refused: the series is not DICOM, a file has changed or gone, or lacks a UID by which it would be found.
    """
    if not series.files[0].sop_uid:
        raise Refused(f"{series.files[0].name} is not DICOM, so DICOM results have no study", "use dicom_out=false")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values, which may identify a patient
        first, classes = _header(series.files[0].path), {}
        for file in series.files:
            header = _header(file.path)
            if _text(header, "SOPInstanceUID") != file.sop_uid:
                raise Refused(f"{file.name} changed while it was read", "rerun the same command")
            classes[file.sop_uid] = _required(header, "SOPClassUID", file.name)
        _required(first, "StudyInstanceUID", series.files[0].name)
        identification = {keyword: _text(first, keyword) for keyword in IDENTIFICATION}
        return Study(identification, series.uid, _text(first, "FrameOfReferenceUID"), classes)


def _header(path: str) -> Dataset:
    wanted: list[Any] = [*IDENTIFICATION, "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID"]
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=wanted, force=True)
    except (InvalidDicomError, OSError) as error:
        raise Refused(f"a slice cannot be read again ({first_line(error)})", "rerun the same command") from error


def _required(header: Dataset, keyword: str, name: str) -> str:
    value = _text(header, keyword)
    if not value:
        raise Refused(f"{name} has no {keyword}, which DICOM results refer to", REMEDY)
    return value


def _text(header: Dataset, keyword: str) -> str:
    value = header.get(keyword)
    text = "" if value is None else str(value).strip(" \0")
    return text if re.fullmatch(VALID.get(keyword, ".*"), text, re.DOTALL) else ""
