"""Where things are in the pictures: head up, the patient's right on the left, true proportions."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtl.evaluation.figures.outlines import CIRCLE, HOLE, READER, Outline
from lungtl.predict.pictures import Planes, heated, legend, outlined, spread_apart, square_pixels
from lungtl.predict.result import KeySlice
from lungtl.sources.ct.lungs import lung_planes
from lungtl.sources.ct.volume import Volume


def test_planes_cut_through_a_point() -> None:
    hu = np.full((5, 6, 8), -1350, np.int16)  # black in the lung window
    hu[4, 2, 7] = 150  # white: the uppermost slice, the patient's left
    planes = Planes.of(Volume(hu, np.arange(5, dtype=np.float64) * 2, (0.5, 0.75)), (2, 7))
    assert planes.coronal.shape == (9, 8)  # 1 mm along z
    assert np.argwhere(planes.coronal == 255).tolist() == [[8, 7]]
    assert np.argwhere(planes.sagittal == 255).tolist() == [[8, 2]]
    assert planes.coronal[7, 7] == 127  # halfway to the slice below
    assert planes.z_mm.tolist() == [float(z) for z in range(9)]


def test_planes_show_the_lungs_not_the_air_around_the_body() -> None:
    hu = np.full((30, 100, 100), -1000, np.int16)
    hu[:, 20:80, 10:90] = 40
    hu[:, 50:70, 20:40] = -850  # a lung
    volume = Volume(hu, np.arange(30, dtype=np.float64) * 2, (2.0, 2.0))
    row, column = lung_planes(volume)
    assert 50 <= row < 70
    assert 20 <= column < 40
    empty = Volume(np.full((3, 10, 12), 40, np.int16), np.arange(3.0), (2.0, 2.0))
    assert lung_planes(empty) == (5, 6)


def test_pixels_become_square() -> None:
    image = np.zeros((10, 10), np.uint8)
    assert square_pixels(image, (0.7, 0.7)) is image
    assert square_pixels(image, (1.0, 0.5)).shape == (20, 10)
    assert square_pixels(image, (0.5, 1.0)).shape == (10, 20)


def test_outlines_are_thin_lines_on_their_pixels() -> None:
    """10 x 12 pixels, enlarged 10 times, then 20 times in height: pixel j's centre is at 10 j + 4.5, or 20 j + 9.5."""
    outline = Outline(np.array([[2, 3], [2, 8], [6, 8], [6, 3]]), READER)
    grey = np.zeros((10, 12), np.uint8)
    for spacing, rows in (((1.0, 1.0), (24.5, 64.5)), ((2.0, 1.0), (49.5, 129.5))):
        shown = outlined(grey, [outline], spacing, least=120)
        lit = shown.any(axis=2)
        found, columns = np.nonzero(lit)
        assert [found.min(), found.max()] == pytest.approx(rows, abs=0.5)
        assert [columns.min(), columns.max()] == pytest.approx([34.5, 84.5], abs=0.5)
        assert lit.sum() == 2 * (rows[1] - rows[0] + 50)  # closed, one pixel thin
        assert tuple(shown[found[0], columns[0]]) == (0x56, 0xB4, 0xE9)
    assert outlined(grey, [], (1.0, 1.0)) is grey


def test_the_page_names_its_lines() -> None:
    def key(*kinds: str) -> KeySlice:
        outlines = [Outline(np.zeros((3, 2)), kind) for kind in kinds]
        return KeySlice(1, 0.0, 0.1, "1.2", None, np.zeros((2, 2), np.uint8), None, outlines)

    assert legend([key()]) == ""
    assert legend([key(), key(CIRCLE)]) == "blue (circle: the nodule's diameter around its position)"
    both = "blue (a radiologist's outline of the nodule), yellow (a part that the radiologist excluded)"
    assert legend([key(HOLE), key(READER, READER)]) == both


def test_a_heatmap_colours_only_where_it_is_warm() -> None:
    grey = np.full((2, 2), 100, np.uint8)
    heat = np.array([[0, 1], [0, 0.5]], np.float32)
    shown = heated(KeySlice(1, 0.0, 0.1, "1.2", None, grey, heat))
    assert shown[:, 0].tolist() == [[100, 100, 100]] * 2
    hottest = (252, 255, 164)  # of matplotlib's inferno
    assert shown[0, 1].tolist() == pytest.approx([0.4 * 100 + 0.6 * c for c in hottest], abs=1.5)
    assert heated(KeySlice(1, 0.0, 0.1, "1.2", None, grey, None)).tolist() == [[[100] * 3] * 2] * 2


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6).map(sorted))
def test_labels_are_spread_apart(positions: list[float]) -> None:
    moved = spread_apart(positions, 1.5, (0, 10))
    assert all(b - a >= 1.5 - 1e-9 for a, b in pairwise(moved))
    assert moved[0] >= 0.75 - 1e-9
    assert moved[-1] <= 9.25 + 1e-9


def test_labels_with_room_stay() -> None:
    assert spread_apart([2, 5, 8], 1, (0, 10)) == pytest.approx([2, 5, 8])
