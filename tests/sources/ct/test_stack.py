"""Copies, localizers, gaps and limits: series with files that do not all belong to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from lungtl.settings.errors import Refused
from lungtl.sources.ct.series import check_gap, find_series
from lungtl.sources.ct.volume import read_volume, resample_z
from tests.dicom_files import UID, Edit, ramp, write_series
from tests.sources.ct.found import Z, only, reasons


def test_identical_copies_are_skipped(tmp_path: Path) -> None:
    write_series(tmp_path, Z)
    write_series(tmp_path / "copy", Z[:2])
    write_series(tmp_path / "again", Z[:1])
    (series,), (refusal,) = find_series(tmp_path)
    assert np.array_equal(read_volume(series).hu, ramp(4) - 1024)
    assert (refusal.item, refusal.reason) == (UID, "3 duplicate files skipped (same SOPInstanceUID, same bytes)")


def test_copies_that_differ(tmp_path: Path) -> None:
    write_series(tmp_path / "bad", Z)
    write_series(tmp_path / "bad" / "copy", Z[:1], ramp(1) + 1, names=["other.dcm"])
    assert reasons(tmp_path) == {UID: "slice-000.dcm and other.dcm have the same SOPInstanceUID but differ"}


def localizers(*which: int) -> Edit:
    def edit(k: int, dataset: FileDataset) -> None:
        if k in which:
            dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
            dataset.Rows, dataset.PixelData = 1, dataset.PixelData[:8]

    return edit


def test_localizers_in_a_series(tmp_path: Path) -> None:
    write_series(tmp_path, [*Z, 0, 1], np.resize(ramp(4), (6, 3, 4)), edit=localizers(4, 5))
    (series,), refusals = find_series(tmp_path)
    assert np.array_equal(read_volume(series).hu, ramp(4) - 1024)
    assert {r.item: r.reason for r in refusals} == {
        "slice-004.dcm": "localizer, not an axial slice",
        "slice-005.dcm": "localizer, not an axial slice",
    }


@pytest.mark.parametrize("kind", ["LOCALIZER", ["DERIVED", "SECONDARY", "LOCALIZER"], ["A", "B", "SCOUT"]])
def test_only_localizers(tmp_path: Path, kind: str | list[str]) -> None:
    write_series(tmp_path / "bad", Z, edit=lambda _, d: setattr(d, "ImageType", kind))
    assert reasons(tmp_path) == {UID: "only localizers"}


def test_missing_slice_is_interpolated(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 2, 6, 8], ramp(5)[[0, 1, 3, 4]])
    series = only(tmp_path)
    assert (series.native_spacing_mm, series.largest_gap_mm) == (2, 4)
    check_gap(series, 4)
    assert np.array_equal(resample_z(read_volume(series), 2).hu, ramp(5) - 1024)  # the ramp is linear in z


def test_gap_that_is_too_large(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 2, 12.5])
    with pytest.raises(Refused, match=r"a gap of 10.5 mm between slices; .* dataset.max_gap_mm=11"):
        check_gap(only(tmp_path), 10)


def test_positions_that_imply_too_many_slices(tmp_path: Path) -> None:
    def far(k: int, dataset: FileDataset) -> None:
        dataset.Rows = dataset.Columns = 512
        dataset.PixelData = bytes(2 * 512 * 512)

    write_series(tmp_path / "bad", [0, 1, 90000], edit=far)
    expected = "3 slices of 512 x 512 (90001 at 1 mm) need 47.2 GB of memory, the limit is 2 GB"
    assert reasons(tmp_path) == {UID: expected}
