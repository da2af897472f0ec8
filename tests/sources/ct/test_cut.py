"""Squares around points, by hand, against SimpleITK's geometry and against the whole volume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK

from lungtl.settings.errors import Refused
from lungtl.sources.ct.cut import covered_z, cut_out, locate
from lungtl.sources.ct.series import Series
from lungtl.sources.ct.volume import read_volume, regular_grid, resample_z
from tests.dicom_files import ramp, write_series
from tests.sources.ct.found import only

sitk: Any = SimpleITK
Z = [-30.0, -27.5, -25.0, -22.5, -21.0]  # 1 mm slices at -30 ... -21


@pytest.fixture
def series(tmp_path: Path) -> Series:
    """5 slices of 20 x 24 pixels of 0.9 x 0.6 mm."""

    def place(k: int, dataset: Any) -> None:
        dataset.ImagePositionPatient = ["-7.2", "11.5", str(Z[k])]

    write_series(tmp_path, Z, ramp(5, 20, 24), PixelSpacing=["0.9", "0.6"], edit=place)
    return only(tmp_path)


def test_points_are_located_as_by_simpleitk(series: Series) -> None:
    image = sitk.Image(24, 20, 5, sitk.sitkInt16)
    image.SetSpacing((0.6, 0.9, 2.5))
    image.SetOrigin((-7.2, 11.5, -30.0))
    for point in ((-7.2, 11.5, -30.0), (0.05, 20.3, -27.0), (6.5, 28.8, -22.0)):
        column, row, _ = image.TransformPhysicalPointToContinuousIndex(point)
        assert locate(series, point) == pytest.approx((row, column))


@pytest.mark.parametrize(
    ("point", "where"),
    [((-7.6, 11.5, -30), "column -0.7 of 24"), ((0, 29.2, -30), "row 19.7 of 20"), ((0, 20, -19.7), "-30 to -21 mm"),
     ((0, 20, -31.3), "-30 to -21 mm"), ((7.2, -11.5, -25), "row -25.6 of 20")],
)  # fmt: skip
def test_points_outside_the_volume_are_refused_with_their_value(
    series: Series, point: tuple[float, float, float], where: str
) -> None:
    with pytest.raises(Refused) as caught:
        locate(series, point)
    assert f"({point[0]:g}, {point[1]:g}, {point[2]:g}) mm is outside the volume" in caught.value.reason
    assert where in caught.value.reason
    assert "LPS" in caught.value.remedy


def test_slices_are_those_of_the_series_grid(series: Series) -> None:
    assert covered_z(series, -27.4, -24.6).tolist() == [-27, -26, -25]
    assert covered_z(series, -26.9, -26.6).tolist() == [-27]  # none inside: the nearest
    assert covered_z(series, -50, -28).tolist() == [-30, -29, -28]


@pytest.mark.parametrize("z", [(-30, -29), (-28, -27, -26), (-21,), (-30,), (-25,), tuple(range(-30, -20))])
def test_a_cut_is_that_of_the_resampled_volume(series: Series, z: tuple[float, ...]) -> None:
    whole = resample_z(read_volume(series))
    assert whole.z_mm.tolist() == regular_grid(series.z_mm).tolist() == list(range(-30, -20))
    found = cut_out(series, 9.3, 12.8, np.array(z, float), field_mm=5.4)
    # 6 rows around 9.3, 9 columns around 12.8
    expected = whole.hu[[int(value) + 30 for value in z], 7:13, 9:18]
    assert expected.shape == (len(z), 6, 9)
    np.testing.assert_array_equal(found, expected)


def test_outside_the_slices_the_edge_is_repeated(series: Series) -> None:
    found = cut_out(series, 1, 23, np.array([-25.0]), field_mm=5.4)
    inside = read_volume(series).hu[2]
    np.testing.assert_array_equal(found[0], np.pad(inside, 5, mode="edge")[3:9, 24:33])
