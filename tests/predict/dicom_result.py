"""The result of a tiny series, or of a real one, without a prediction's cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lungtl.predict.result import Decision, KeySlice, ModelResult, SeriesResult
from lungtl.runs.model import InputWarning, Model, Prediction
from lungtl.sources.ct.series import Series, find_series
from lungtl.sources.points import Point
from tests.dicom_files import write_series

IDENTITY = {
    "SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jürgen", "PatientID": "PATIENT-0017",
    "PatientSex": "M", "PatientBirthDate": "19500102", "StudyDate": "20200304", "StudyTime": "101112.5",
    "StudyID": "S4", "AccessionNumber": "ACCESSION-93", "ReferringPhysicianName": "Referrer^R",
}  # fmt: skip
HIDDEN = (
    "PatientComments",
    "InstitutionName",
    "StudyDescription",
    "OperatorsName",
    "OtherPatientIDs",
    "PatientAddress",
)
SECRET = dict.fromkeys(HIDDEN, "secret")
WARNING = InputWarning("z-coverage", "The scan is too short for a pair of lungs.", "10 mm")
PAGES = tuple(np.random.default_rng(i).integers(0, 256, (61, 43, 3)).astype(np.uint8) for i in range(3))


def tiny_series(folder: Path, **tags: str | None) -> Series:
    """Four slices with an identity and much that is nobody's business."""
    given: dict[str, Any] = {"FrameOfReferenceUID": "1.2.3.4", **IDENTITY, **SECRET, **tags}
    absent = {key for key in IDENTITY if given[key] is None}  # not in the helper's header either
    write_series(folder, [2.5 * k for k in range(4)], **{key: given[key] for key in given.keys() - absent})
    (series,), refused = find_series(folder)
    assert not refused
    return series


def result_of(series: Series, model: Model, point: Point | None = None, models: int = 1) -> SeriesResult:
    """A probability of 62.5 %, calibrated 31 %; the third slice weighed most, then the first."""
    files = (series.files[2], series.files[0])
    keys = tuple(
        KeySlice(i + 1, float(file.position_mm[2]), 0.5 / (i + 1), file.sop_uid, file.instance_number,
                 np.zeros(file.shape, np.uint8), None)
        for i, file in enumerate(files)
    )  # fmt: skip
    prediction = Prediction(0.625, 0.31, pd.DataFrame(), warnings=(WARNING,))
    decisions = {"youden": Decision(0.4321, True), "specificity_90": Decision(0.9, False), "sensitivity_95": None}
    each = tuple(ModelResult(f"model {i}", model, prediction, decisions) for i in range(models))
    return SeriesResult(series.uid, "in", series, point, each, 0.625, None, pd.DataFrame(), keys, PAGES)
