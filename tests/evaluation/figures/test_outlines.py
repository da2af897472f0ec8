"""Outlines in pictures: which of them, where, and what the legend says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from lungtl.evaluation.figures import montage, save
from lungtl.evaluation.figures.canvas import SKY
from lungtl.evaluation.figures.outlines import CIRCLE, HOLE, READER, Outline, circle, on_slice

SQUARE = Outline(np.array([[2.0, 3.0], [2, 8], [6, 8], [6, 3]]), READER)


def row(first: int, last: int, hole: bool = False, shift: int = 0) -> dict[str, Any]:
    points = SQUARE.points + shift
    return {"hole": hole, "first": first, "last": last, "rows": points[:, 0].tolist(), "columns": points[:, 1].tolist()}


def test_outlines_on_a_part_of_a_slice() -> None:
    rows = [row(1, 2), row(2, 3, hole=True), row(2, 2, shift=40), row(2, 2, shift=-9)]
    assert on_slice(rows, 0, (0, 0), (20, 20)) == []
    (one,) = on_slice(rows, 1, (1, 2), (20, 20))
    assert (one.kind, one.points.tolist()) == (READER, [[1, 1], [1, 6], [5, 6], [5, 1]])
    assert [each.kind for each in on_slice(rows, 2, (0, 0), (20, 20))] == [READER, HOLE]
    assert [each.kind for each in on_slice(rows, 2, (5, 5), (20, 20))] == [READER, HOLE]  # cut, but in it
    assert on_slice(rows, 2, (7, 5), (20, 20)) == []


def test_a_circle_in_pixels_that_are_not_square() -> None:
    (one,) = circle(23.5, 19.5, 12.0, (0.5, 0.8))
    distances_mm = np.hypot(*((one.points - (23.5, 19.5)) * (0.5, 0.8)).T)
    np.testing.assert_allclose(distances_mm, 6.0)
    assert one.kind == CIRCLE
    for spacing, diameter in (((np.nan, 0.8), 12.0), ((0.5, 0.8), np.nan), ((0.5, 0.8), 0.0)):
        assert circle(0, 0, diameter, spacing) == []


def test_the_legend_names_what_is_drawn() -> None:
    images = [np.zeros((8, 8), dtype=np.uint8)] * 2

    def legend(*kinds: str) -> list[str]:
        figure = montage(images, ["s"] * 2, [2, -1], outlines=[[Outline(SQUARE.points, kind) for kind in kinds], []])
        assert len(figure.axes[0].patches) == len(kinds)
        assert not figure.axes[1].patches
        return [text.get_text() for text in figure.legends[0].texts][2:]

    assert legend() == []
    assert legend(READER, READER) == ["a radiologist's outline of the nodule"]
    assert legend(CIRCLE) == ["circle: the nodule's diameter around its position"]
    assert legend(HOLE, READER) == ["a radiologist's outline of the nodule", "a part that the radiologist excluded"]


def test_an_outline_is_on_its_pixels_in_the_file(tmp_path: Path) -> None:
    """The image is enlarged to fill the figure: pixel j of n reaches from j / n to (j + 1) / n of it."""
    figure = montage([np.zeros((10, 12), np.uint8)], ["s"], aspects=[1.5], outlines=[[SQUARE]])
    path = save(figure, tmp_path / "montage.png")
    box = figure.axes[0].get_window_extent()
    assert box.height / box.width == pytest.approx(1.5 * 10 / 12)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(float)
    blue = np.abs(picture - np.array(to_rgb(SKY)) * 255).max(axis=2) < 60
    blue[int(figure.bbox.height - box.y0) + 2 :] = False  # the legend
    rows, columns = blue.nonzero()
    top = figure.bbox.height - box.y1
    expected = (top + box.height * np.array([2.5, 6.5]) / 10, box.x0 + box.width * np.array([3.5, 8.5]) / 12)
    assert [rows.min(), rows.max()] == pytest.approx(expected[0], abs=2)
    assert [columns.min(), columns.max()] == pytest.approx(expected[1], abs=2)
