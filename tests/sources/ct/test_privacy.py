"""Header values must not leak from the reader: neither in messages, log lines, warnings nor results."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import FileDataset

from lungtl.settings.errors import Refused
from lungtl.sources.ct.elements import TAGS, quiet_pydicom
from lungtl.sources.ct.series import Series, check_gap, find_series
from lungtl.sources.ct.slice_file import CONSTANT, IN_SEQUENCE
from lungtl.sources.ct.volume import read_volume
from tests.dicom_files import UID, Edit, write_series

NAME = "ZZDOE^JOHN"
PARTS = ("zzdoe", "john")
KEYWORDS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientAddress", "PatientComments", "OtherPatientNames",
    "ReferringPhysicianName", "InstitutionName", "InstitutionAddress", "StationName", "StudyDescription",
    "SeriesDescription", "AccessionNumber", "ProtocolName", "OperatorsName", "Manufacturer", "ManufacturerModelName",
    "DeviceSerialNumber", "ImageComments", "StudyID", "StudyDate", "StudyTime", "ContentDate", "InstanceNumber",
    "SeriesNumber", "SliceLocation", "BodyPartExamined", "ConvolutionKernel", "KVP", "PatientPosition",
    "FrameOfReferenceUID", "StudyInstanceUID", "WindowCenter", "WindowWidth", "SpecificCharacterSet",
)  # fmt: skip


def put(dataset: FileDataset, keyword: str, value: str = NAME) -> None:
    """Write text to an element of any type."""
    tag = pydicom.tag.Tag(tag_for_keyword(keyword) or 0)
    content = value.encode().ljust(len(value) + len(value) % 2)
    vr = pydicom.datadict.dictionary_VR(tag)
    dataset._dict[tag] = RawDataElement(tag, vr, len(content), content, 0, False, True)


def write(folder: Path, z_mm: list[float], edit: Edit) -> list[Path]:
    """Write a series, with pydicom's warnings silenced."""
    with quiet_pydicom():
        return write_series(folder, z_mm, edit=edit)


def named_everywhere(_: int, dataset: FileDataset) -> None:
    for keyword in KEYWORDS:
        put(dataset, keyword)


def named_in(keyword: str) -> Edit:
    def edit(k: int, dataset: FileDataset) -> None:
        named_everywhere(k, dataset)
        if k == 1:
            put(dataset, keyword)

    return edit


def read(root: Path) -> list[str]:
    """All results and messages of reading a folder."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        series, refusals = find_series(root)
        said = [repr(refusals), repr(series)]
        for found in series:
            said += [repr(details(found)), repr(read_volume(found))]
            with pytest.raises(Refused) as refused:
                check_gap(found, 0.5)
            said.append(repr(refused.value))
    return said + [str(warning.message) for warning in caught]


def details(series: Series) -> list[object]:
    return [getattr(series, name) for name in dir(series) if not name.startswith("_")]


def check_no_leak(said: list[str], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    everything = "\n".join([*said, caplog.text, *capfd.readouterr()]).lower()
    assert not [part for part in PARTS if part in everything]


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def test_names_in_a_series_that_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, [0, 1, 2], edit=named_everywhere)
    said = read(tmp_path)
    assert len(said) == 5  # one series was read, and nothing warned
    check_no_leak(said, caplog, capfd)
    assert NAME.encode() in (tmp_path / "slice-000.dcm").read_bytes()


@pytest.mark.parametrize("keyword", sorted(TAGS))
def test_names_in_elements_that_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], keyword: str
) -> None:
    write(tmp_path, [0, 1], edit=named_in(keyword))
    said = read(tmp_path)
    check_no_leak(said, caplog, capfd)
    harmless = {
        "ContrastBolusAgent",
        "InstanceNumber",
        "Manufacturer",
        "SOPClassUID",
        "PixelPaddingValue",
        "PixelPaddingRangeLimit",
        *CONSTANT,
        *IN_SEQUENCE,
    }
    refused = keyword not in harmless - {"SliceThickness"}
    assert ("Refusal(" in said[0]) == refused
    assert TAGS[keyword][1] != "US" or not refused or f"has an invalid {keyword}" in said[0]


@pytest.mark.parametrize("keyword", [*CONSTANT, *IN_SEQUENCE[:-1]])
def test_names_in_a_mixed_series(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], keyword: str
) -> None:
    names = (NAME, "ZZDOE^JANE", NAME)
    write(tmp_path, [0, 1, 2], edit=lambda k, dataset: put(dataset, keyword, names[k]))
    said = read(tmp_path)
    check_no_leak(said, caplog, capfd)
    assert keyword in said[0]


@pytest.mark.parametrize("marker", [b"\x02\x00\x10\x00UI\x14\x00", b"\x02\x00\x02\x00UI\x1a\x00"])
def test_names_in_the_file_meta_information(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], marker: bytes
) -> None:
    path = write(tmp_path, [0, 1], edit=named_everywhere)[0]
    content = path.read_bytes()
    start = content.index(marker) + len(marker)
    path.write_bytes(content[:start] + NAME.encode() + content[start + len(NAME) :])
    check_no_leak(read(tmp_path), caplog, capfd)


def of_series(uid: str) -> Edit:
    return lambda _, dataset: put(dataset, "SeriesInstanceUID", uid)


def test_series_uid_with_digits_and_a_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, uid in enumerate((f"{UID}.{NAME}", NAME, "9" * 65)):
        write(tmp_path / str(number), [0, 1], edit=of_series(uid))
    said = read(tmp_path)
    check_no_leak(said, caplog, capfd)
    assert said[0].count("has an invalid SeriesInstanceUID") == 6
    assert "9" * 65 not in said[0]


def test_pydicom_quotes_names(tmp_path: Path) -> None:
    """The same file, read by pydicom alone, shows the name: the tests above can fail."""
    path = write(tmp_path, [0, 1], edit=named_in("PixelSpacing"))[1]
    with pytest.warns(UserWarning, match="ZZDOE"):
        pydicom.dcmread(path)
