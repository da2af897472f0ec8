from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lungtl.settings.errors import Refused
from lungtl.sources.ct.prepare import prepare_series
from lungtl.sources.ct.series import Series, find_series
from tests.dicom_files import write_series

AIR, BODY, LUNG = -1000, 40, -800
SIZE = 80  # pixels of 4 mm


@pytest.fixture
def chest(tmp_path: Path) -> Series:
    """Six slices 2 mm apart: a body of 60 x 44 pixels with two lungs of 16 x 24, rows 28..51."""
    hu = np.full((6, SIZE, SIZE), AIR, dtype=np.int16)
    hu[:, 18:62, 10:70] = BODY
    hu[:, 28:52, 18:34] = LUNG
    hu[:, 28:52, 46:62] = LUNG
    write_series(tmp_path, [0, 2, 4, 6, 8, 10], hu + np.int16(1024), PixelSpacing=["4", "4"])
    return find_series(tmp_path)[0][0]


def test_without_a_crop_all_pixels_stay(chest: Series) -> None:
    volume, details = prepare_series(chest)
    assert volume.hu.shape == (11, SIZE, SIZE)
    assert (details["crop_top"], details["crop_left"]) == (0, 0)
    assert (details["n_native_slices"], details["largest_gap_mm"]) == (6, 2.0)


def test_the_crop_keeps_the_lungs_every_slice_and_the_place(chest: Series) -> None:
    whole, _ = prepare_series(chest)
    cropped, details = prepare_series(chest, crop="lungs")
    top, left = details["crop_top"], details["crop_left"]
    height, width = cropped.hu.shape[1:]
    assert height == width < SIZE
    assert top <= 28 < 52 <= top + height
    assert left <= 18 < 62 <= left + width
    assert np.array_equal(cropped.hu, whole.hu[:, top : top + height, left : left + width])
    assert np.array_equal(cropped.z_mm, whole.z_mm)


def test_no_lungs_no_crop(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 2], np.full((2, 20, 20), 1064, dtype=np.int16))
    with pytest.raises(Refused, match=r"dataset\.crop=none"):
        prepare_series(find_series(tmp_path)[0][0], crop="lungs")


def test_a_gap_is_refused_before_pixels_are_read(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 2, 20])
    with pytest.raises(Refused, match="a gap of 18 mm"):
        prepare_series(find_series(tmp_path)[0][0])
