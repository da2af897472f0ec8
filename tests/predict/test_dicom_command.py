"""`lungtl predict dicom_out=true`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pydicom
import pytest

from lungtl.predict.command import predict_all
from lungtl.predict.outputs import Outputs, locked
from lungtl.settings.schema import PredictConfig
from tests.predict.dicom_result import IDENTITY, tiny_series
from tests.runs.test_model import bundle

pytest.importorskip("highdicom")


def config(root: Path, **options: Any) -> PredictConfig:
    return PredictConfig.model_validate(
        {"model": str(root / "bundle"), "trust": None, "input": root / "in", "output": root / "out", "points": None,
         "dicom_out": True, "max_gap_mm": 10.0, "max_gb": 2.0, "follow_links": False, "accelerator": "cpu",
         "data_dir": root, "tracking": {"enabled": False, "uri": None, "experiment": "e"}, **options}
    )  # fmt: skip


def predict(config: PredictConfig) -> Outputs:
    with locked(config.output):
        return predict_all(config, "2026-11-30")


def test_the_files_are_next_to_the_page_and_nothing_else_names_the_patient(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle(tmp_path / "bundle")
    series = tiny_series(tmp_path / "in", PatientName="Adams,Amy")  # odd enough to be complained about
    with caplog.at_level(logging.DEBUG):
        outputs = predict(config(tmp_path))
    place = outputs.place(series.uid)
    report = pydicom.dcmread(place / "report.dcm")
    assert report.PatientName == "Adams,Amy"
    assert pydicom.dcmread(place / "page.dcm").StudyInstanceUID == report.StudyInstanceUID
    identity = {"Adams", *(IDENTITY[key] for key in ("PatientID", "PatientBirthDate", "AccessionNumber"))}
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) >= 8
    for word in identity:
        assert word not in caplog.text
        for path in written:
            assert word not in str(path)
            if path.suffix not in (".dcm", ".png"):
                assert word not in path.read_text(encoding="utf-8"), path


def test_a_series_that_cannot_be_filed_is_refused_with_the_reason(tmp_path: Path) -> None:
    bundle(tmp_path / "bundle")
    tiny_series(tmp_path / "in", StudyInstanceUID=None)
    outputs = predict(config(tmp_path))
    assert not outputs.series
    assert outputs.refused[0].reason.endswith("has no StudyInstanceUID, which DICOM results refer to")
    assert len(predict(config(tmp_path, dicom_out=False)).series) == 1
