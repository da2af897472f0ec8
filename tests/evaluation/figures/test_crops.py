from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from PIL import Image

from lungtl.evaluation.figures.canvas import save
from lungtl.evaluation.figures.crops import crops
from lungtl.sources.ct.lungs import Box
from lungtl.sources.ct.volume import Volume
from tests.evaluation.figures.drawn import image

BOX = Box(top=2, bottom=6, left=3, right=8)


def volume(count: int) -> Volume:
    hu = np.arange(count * 10 * 12, dtype=np.int16).reshape(count, 10, 12)
    return Volume(hu, np.arange(count, dtype=np.float64) * 2.5 - 100, (1.0, 0.5))


def test_the_box_encloses_what_is_below() -> None:
    scan = volume(10)
    axes = crops(scan, BOX, "a scan").axes
    assert len(axes) == 10
    # The middles of five parts of ten slices: 1, 3, 5, 7, 9.
    for k, above, below in zip((1, 3, 5, 7, 9), axes[:5], axes[5:], strict=True):
        np.testing.assert_array_equal(image(above), scan.hu[k])
        np.testing.assert_array_equal(image(below), scan.hu[k, 2:6, 3:8])
        (drawn,) = above.patches
        assert isinstance(drawn, Rectangle)
        # An image's first pixel reaches from -0.5 to 0.5.
        assert (drawn.get_x(), drawn.get_y()) == (2.5, 1.5)
        assert (drawn.get_width(), drawn.get_height()) == (5, 4)
        assert above.get_title() == f"z {-100 + 2.5 * k:g} mm\n12 x 10"
        assert below.get_title() == "5 x 4"


@pytest.mark.parametrize("count", [1, 3])
def test_a_short_scan_shows_each_slice_once(count: int) -> None:
    scan = volume(count)
    axes = crops(scan, BOX).axes
    assert len(axes) == 2 * count
    for k in range(count):
        np.testing.assert_array_equal(image(axes[k]), scan.hu[k])


def test_pixels_are_drawn_as_long_as_they_are() -> None:
    assert {axes.get_aspect() for axes in crops(volume(2), BOX).axes} == {2.0}


def test_it_is_written_like_the_other_figures(tmp_path: Path) -> None:
    with Image.open(save(crops(volume(3), BOX), tmp_path / "crops.png")) as png:
        assert png.width == 800
