"""Several acquisitions, reconstructions, studies or patients under one SeriesInstanceUID."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from lungtl.sources.ct.series import find_series
from lungtl.sources.ct.volume import read_volume
from tests.dicom_files import UID, Edit, ramp, write_series
from tests.sources.ct.found import Z, only, reasons


def each(keyword: str, *values: Any) -> Edit:
    """A value for each slice; None omits the element."""

    def edit(k: int, dataset: FileDataset) -> None:
        if values[k] is None:
            if keyword in dataset:
                del dataset[keyword]
        else:
            setattr(dataset, keyword, values[k])

    return edit


@pytest.mark.parametrize(
    ("keyword", "one", "other"),
    [
        ("AcquisitionNumber", 1, 2),
        ("AcquisitionTime", "120000", "120100"),
        ("IrradiationEventUID", "1.2.1", "1.2.2"),
        ("SeriesNumber", 2, 3),
        ("KVP", "80", "140"),
        ("ImageType", ["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY", "AXIAL"]),
        ("SliceThickness", "1", "5"),
    ],
)
def test_acquisitions(tmp_path: Path, keyword: str, one: Any, other: Any) -> None:
    write_series(tmp_path / "in", Z, edit=each(keyword, one, one, other, other))
    assert np.array_equal(read_volume(only(tmp_path / "in")).hu, ramp(4) - 1024)  # one after the other along z
    write_series(tmp_path / "in", Z, edit=each(keyword, one, other, one, other))
    assert reasons(tmp_path) == {UID: f"slices of 2 {keyword} values alternate along z in one series"}


def test_an_acquisition_of_unknown_number_among_others(tmp_path: Path) -> None:
    write_series(tmp_path / "in", Z, edit=each("AcquisitionNumber", 1, None, 1, 1))
    assert "AcquisitionNumber" in reasons(tmp_path)[UID]


def test_a_time_for_each_slice(tmp_path: Path) -> None:
    write_series(tmp_path, Z, edit=each("AcquisitionTime", "120003.5", "120002.5", "120001.5", "120000.5"))
    assert len(only(tmp_path).files) == 4


def test_thickness_that_was_computed_for_each_slice(tmp_path: Path) -> None:
    write_series(tmp_path, Z, edit=each("SliceThickness", "2.5", "2.4999", "2.5", "2.5001"))
    assert len(only(tmp_path).files) == 4


@pytest.mark.parametrize(
    ("keyword", "one", "other"),
    [
        ("PatientID", "MRN-4711", "MRN-4712"),
        ("PatientID", "MRN-4711", None),
        ("PatientName", "DOE^JOHN", "ROE^JANE"),
        ("StudyInstanceUID", "1.2.3.41", "1.2.3.42"),
        ("FrameOfReferenceUID", "1.2.3.41", "1.2.3.42"),
        ("ConvolutionKernel", "B30f", "B70f"),
        ("ConvolutionKernel", ["I30f", "3"], ["I30f", "2"]),
    ],
)
def test_studies_patients_frames_and_kernels(tmp_path: Path, keyword: str, one: str, other: str | None) -> None:
    write_series(tmp_path / "bad", Z, edit=each(keyword, one, one, other, other))  # even one after the other
    series, (refusal,) = find_series(tmp_path)
    assert series == []
    assert refusal.reason == f"{keyword} differs between slices: 2 values in one series"
    for value in (one, other):  # never repeated
        assert not isinstance(value, str) or value not in f"{refusal.reason} {refusal.remedy}"


def test_blanks_after_a_value_are_not_a_difference(tmp_path: Path) -> None:
    paths = write_series(tmp_path, Z, PatientID="MRN-1 ")
    content = paths[1].read_bytes()
    assert content.count(b"MRN-1 ") == 1
    paths[1].write_bytes(content.replace(b"MRN-1 ", b"MRN-1\0"))
    assert len(only(tmp_path).files) == 4


@pytest.mark.parametrize("shift", [0.0, 0.005, 0.1])
def test_positions_of_two_grids(tmp_path: Path, shift: float) -> None:
    positions = [0, 2.5, 5, shift, 2.5 + shift, 5 + shift]
    write_series(tmp_path / "bad", positions, np.resize(ramp(6), (6, 3, 4)))
    (reason,) = reasons(tmp_path).values()
    assert reason == "two slices at z = 0 mm: slice-000.dcm and slice-003.dcm"


def test_one_slice_with_two_uids(tmp_path: Path) -> None:
    write_series(tmp_path / "bad", [0, 2.5, 5, 2.5], ramp(4)[[0, 1, 2, 1]])
    series, (refusal,) = find_series(tmp_path)
    assert series == []
    files = "slice-001.dcm and slice-003.dcm"
    assert refusal.reason == f"two slices at z = 2.5 mm: {files}, the same pixels with two SOPInstanceUIDs"
