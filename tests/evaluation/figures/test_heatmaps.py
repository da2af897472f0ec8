from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lungtl.evaluation.figures import montage
from lungtl.settings.errors import LungtlError

IMAGE = np.full((4, 6), 90, dtype=np.uint8)
HEAT = np.zeros((4, 6), dtype=np.float32)
HEAT[1, 2], HEAT[3, 5] = 0.02, 0.01


def test_heat_is_scaled_to_its_maximum() -> None:
    axes = montage([IMAGE], ["s"], maps=[HEAT]).axes[0]
    below, above = axes.images
    np.testing.assert_array_equal(np.asarray(below.get_array()), IMAGE)
    np.testing.assert_allclose(np.asarray(above.get_array()), HEAT / 0.02)
    np.testing.assert_allclose(above.get_alpha(), 0.6 * HEAT / 0.02)  # type: ignore[arg-type]
    assert below.get_extent() == above.get_extent()
    assert above.get_clim() == (0, 1)


def test_a_map_of_zeros_leaves_the_slice_unchanged() -> None:
    first, second = montage([IMAGE, IMAGE], ["a", "b"], maps=[np.zeros_like(HEAT), HEAT]).axes[:2]
    assert len(first.images) == 1
    assert len(second.images) == 2


def test_frames_and_captions_are_those_of_the_montage() -> None:
    figure = montage([IMAGE] * 2, ["a", "b"], [1, 0], maps=[HEAT] * 2)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["a", "b"]
    assert [axes.get_frame_on() for axes in figure.axes[:2]] == [True, False]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["frame: benign (true)"]


def test_no_slices_are_noted() -> None:
    assert montage([], [], maps=[]).axes[0].texts[0].get_text() == "no slices"


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([], "1 images and 0 maps"),
        ([HEAT.T], r"map 0 has shape \(6, 4\), its image \(4, 6\)"),
        ([HEAT - 0.001], "map 0 contains negative"),
        ([HEAT * np.nan], "map 0 contains negative or non-finite"),
    ],
)
def test_invalid_maps_are_refused(maps: list[NDArray[np.float32]], message: str) -> None:
    with pytest.raises(LungtlError, match=message):
        montage([IMAGE], ["s"], maps=maps)
