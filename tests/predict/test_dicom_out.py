"""Reports and pages as DICOM: their content, whom they identify, and what independent programs say of them."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from lungtl.bundle.card import MEANINGLESS, RESEARCH_ONLY
from lungtl.predict.dicom_out import check_installed, write_dicom
from lungtl.predict.result import SeriesResult
from lungtl.predict.study import read_study
from lungtl.runs.model import Model
from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources.ct.series import Series, find_series
from lungtl.sources.points import Point
from tests import real_data
from tests.predict.dicom_result import IDENTITY, PAGES, SECRET, result_of, tiny_series
from tests.runs.test_model import bundle

pytest.importorskip("highdicom")
REPORT, PAGE = "report.dcm", "page.dcm"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model.open(bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    return tiny_series(tmp_path_factory.mktemp("series"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, series: Series, model: Model) -> Path:
    folder = tmp_path_factory.mktemp("written")
    assert write(result_of(series, model), folder) == [folder / REPORT, folder / PAGE]
    return folder


def write(result: SeriesResult, folder: Path) -> list[Path]:
    return write_dicom(result, read_study(result.series), folder)


def items(dataset: Dataset, value_type: str = "") -> Iterator[Dataset]:
    """All content items of a report, or those of a type."""
    for item in dataset.get("ContentSequence", []):
        if value_type in ("", item.ValueType):
            yield item
        yield from items(item, value_type)


def numbers(report: Dataset) -> list[tuple[str, float, list[str]]]:
    """Concept, value in percent, and the slices referred to."""
    return [
        (item.ConceptNameCodeSequence[0].CodeMeaning, float(item.MeasuredValueSequence[0].NumericValue),
         [one.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for one in items(item, "IMAGE")])
        for item in items(report, "NUM")
    ]  # fmt: skip


def test_the_report_has_the_probability_and_the_key_slices(folder: Path, series: Series) -> None:
    report = pydicom.dcmread(folder / REPORT)
    assert (report.SOPClassUID.name, report.Modality) == ("Comprehensive 3D SR Storage", "SR")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    third, first = series.files[2].sop_uid, series.files[0].sop_uid
    assert numbers(report) == [
        ("Probability of cancer", 62.5, [third, first]),
        ("Probability of cancer, calibrated", 31.0, [third, first]),
        ("Weight of the slice in the probability", 50.0, [third]),
        ("Weight of the slice in the probability", 25.0, [first]),
    ]
    decisions = {item.ConceptNameCodeSequence[0].CodeMeaning: item.ConceptCodeSequence[0].CodeMeaning
                 for item in items(report, "CODE")}  # fmt: skip
    assert decisions["At youden, from 43.21 % on"] == "Positive"
    assert decisions["At specificity_90, from 90 % on"] == "Negative"
    assert not any("sensitivity" in name for name in decisions)
    texts = [item.TextValue for item in items(report, "TEXT")]
    assert RESEARCH_ONLY in texts
    assert "Warning (z-coverage): The scan is too short for a pair of lungs. (10 mm)" in texts
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == (
        "COMPLETE", "PRELIMINARY", "UNVERIFIED",
    )  # fmt: skip


def test_the_evidence_is_every_slice_of_the_series(folder: Path, series: Series) -> None:
    (study,) = pydicom.dcmread(folder / REPORT).CurrentRequestedProcedureEvidenceSequence
    (evidence,) = study.ReferencedSeriesSequence
    assert evidence.SeriesInstanceUID == series.uid
    uids = [one.ReferencedSOPInstanceUID for one in evidence.ReferencedSOPSequence]
    assert sorted(uids) == sorted(file.sop_uid for file in series.files)


def test_the_page_is_a_colour_image_of_several_frames(folder: Path, series: Series) -> None:
    page = pydicom.dcmread(folder / PAGE)
    assert page.SOPClassUID.name == "Multi-frame True Color Secondary Capture Image Storage"
    assert (page.Modality, page.ConversionType, page.BurnedInAnnotation) == ("OT", "WSD", "NO")
    assert "Laterality" not in page
    np.testing.assert_array_equal(page.pixel_array, np.stack(PAGES))
    assert [one.ReferencedSOPInstanceUID for one in page.SourceImageSequence] == [
        series.files[2].sop_uid, series.files[0].sop_uid,
    ]  # fmt: skip


@pytest.mark.parametrize("name", [REPORT, PAGE])
def test_only_the_studys_own_identification_is_carried_over(folder: Path, series: Series, name: str) -> None:
    written, source = pydicom.dcmread(folder / name), pydicom.dcmread(series.files[0].path)
    for keyword in IDENTITY.keys() - {"SpecificCharacterSet"} | {"StudyInstanceUID"}:
        assert written[keyword].value == source[keyword].value, keyword
    assert "secret" not in str(written)
    assert not written.keys() & {source[keyword].tag for keyword in SECRET}
    assert written.SeriesInstanceUID != source.SeriesInstanceUID
    assert written.SOPInstanceUID == written.file_meta.MediaStorageSOPInstanceUID


def test_uids_are_new_each_time(folder: Path, series: Series, model: Model, tmp_path: Path) -> None:
    write(result_of(series, model), tmp_path)
    uids = [pydicom.dcmread(place / name)[keyword].value for place in (folder, tmp_path) for name in (REPORT, PAGE)
            for keyword in ("SOPInstanceUID", "SeriesInstanceUID")]  # fmt: skip
    assert len(set(uids)) == 8


def test_of_several_models_the_mean_comes_first(series: Series, model: Model, tmp_path: Path) -> None:
    result = replace(result_of(series, model, models=2), probability=0.5)
    write(result, tmp_path)
    report = pydicom.dcmread(tmp_path / REPORT)
    assert [value for name, value, _ in numbers(report) if name == "Probability of cancer"] == [50.0, 62.5, 62.5]
    algorithms = [item.TextValue for item in items(report, "TEXT")
                  if item.ConceptNameCodeSequence[0].CodeMeaning == "Algorithm Name"]  # fmt: skip
    assert algorithms == ["mean of 2 models", "model 0", "model 1"]


def test_a_model_of_phantoms_says_that_its_numbers_mean_nothing(series: Series, tmp_path: Path) -> None:
    of_phantoms = Model.open(bundle(tmp_path / "bundle", choices={"dataset": "phantom"}))
    write(result_of(series, of_phantoms), tmp_path)
    texts = [item.TextValue for item in items(pydicom.dcmread(tmp_path / REPORT), "TEXT")]
    assert MEANINGLESS in texts


def test_a_nodule_has_its_position_and_without_pages_there_is_no_image(
    series: Series, model: Model, tmp_path: Path
) -> None:
    point = Point(3, "p", -1, (1.5, -2.0, 5.0), 8.0, None)
    assert write(replace(result_of(series, model, point), pages=()), tmp_path) == [tmp_path / REPORT]
    places = list(items(pydicom.dcmread(tmp_path / REPORT), "SCOORD3D"))
    assert places[0].GraphicData == [1.5, -2.0, 5.0]
    assert places[0].ReferencedFrameOfReferenceUID == "1.2.3.4"


def test_values_that_break_the_rules_of_dicom_are_neither_repeated_nor_logged(
    model: Model, tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    odd = {"PatientSex": "male", "StudyDate": "yesterday", "StudyTime": "noon", "PatientName": "Doe, Jane = Mrs",
           "PatientID": None, "PatientBirthDate": None}  # fmt: skip
    series = tiny_series(tmp_path / "series", **odd)
    recwarn.clear()
    with caplog.at_level(logging.DEBUG):
        paths = write(result_of(series, model), tmp_path)
    for path in paths:
        written = pydicom.dcmread(path)
        assert [written[key].value for key in ("PatientSex", "StudyDate", "StudyTime", "PatientID")] == [""] * 4
        assert written.PatientName == "Doe, Jane = Mrs"
    assert "Doe" not in caplog.text
    assert not [one for one in recwarn if "Doe" in str(one.message) or "yesterday" in str(one.message)]


def test_a_series_without_a_study_is_refused(model: Model, tmp_path: Path) -> None:
    series = tiny_series(tmp_path / "series", StudyInstanceUID=None)
    with pytest.raises(Refused, match=r"has no StudyInstanceUID, .*; fix the header, or use dicom_out=false"):
        write(result_of(series, model), tmp_path)
    assert not list(tmp_path.glob("*.dcm"))


def test_a_volume_file_has_no_study(tmp_path: Path, series: Series) -> None:
    no_dicom = replace(series, files=tuple(replace(file, sop_uid="") for file in series.files))
    with pytest.raises(Refused, match=r"slice-000.dcm is not DICOM, .*; use dicom_out=false"):
        read_study(no_dicom)


def test_a_file_that_was_replaced_meanwhile_is_refused(model: Model, tmp_path: Path) -> None:
    series = tiny_series(tmp_path / "series")
    shutil.copy(series.files[0].path, series.files[1].path)
    with pytest.raises(Refused, match="changed while it was read"):
        write(result_of(series, model), tmp_path)


def test_without_highdicom_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    check_installed()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(LungtlError, match=r"pip install 'lungtl\[dicom-out\]'"):
        check_installed()


needs_dciodvfy = pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="apt-get install dicom3tools")
needs_dcmtk = pytest.mark.skipif(shutil.which("dsrdump") is None, reason="apt-get install dcmtk")


def complaints(path: Path) -> list[str]:
    """Of dciodvfy, without those about our own coding scheme and about what a DICOMDIR would need."""
    done = subprocess.run(["dciodvfy", path], capture_output=True, text=True, check=False, errors="replace")
    harmless = ("99LUNGTL", "DICOMDIR")
    return [line for line in done.stderr.splitlines()
            if line.startswith(("Error", "Warning")) and not any(word in line for word in harmless)]  # fmt: skip


@needs_dciodvfy
@pytest.mark.parametrize("name", [REPORT, PAGE])
def test_dciodvfy_has_no_complaint(folder: Path, name: str) -> None:
    assert complaints(folder / name) == []


@needs_dcmtk
def test_dcmtk_reads_the_report(folder: Path) -> None:
    done = subprocess.run(["dsrdump", "+Pc", folder / REPORT], capture_output=True, text=True, check=True)
    assert 'NUM:(111047,DCM,"Probability of cancer")="62.5" (%,UCUM,"Percent")' in done.stdout


@needs_dciodvfy
@pytest.mark.real
@real_data.needs("lidc_dicom_0063.tar.xz")
def test_a_real_series(model: Model, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (series,), _ = find_series(real_data.unpack("lidc_dicom_0063.tar.xz", tmp_path_factory))
    for path in write(result_of(series, model), tmp_path):
        assert complaints(path) == []
        assert pydicom.dcmread(path).PatientID == "LIDC-IDRI-0063"
