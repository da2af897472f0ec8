from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from lungtl.evaluation.figures import attention_along_z, montage, save
from lungtl.evaluation.figures.canvas import GREEN, VERMILLION
from lungtl.evaluation.figures.slices import label_spans
from lungtl.settings.errors import LungtlError
from tests.evaluation.figures.drawn import image, line

WEIGHTS = np.array([0.1, 0.2, 0.4, 0.2, 0.1])
PROBABILITIES = np.array([0.0, 0.3, 0.9, 0.6, 0.1])
LABELS = np.array([0, 2, 2, 1, 2])


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_weights_and_probabilities_are_drawn_from_low_to_high_z() -> None:
    above, below = attention_along_z([-10, -12, -14, -16, -18], WEIGHTS, PROBABILITIES, LABELS, "bag 7").axes
    np.testing.assert_array_equal(line(above, 0), [[-18, -16, -14, -12, -10], WEIGHTS[::-1]])
    np.testing.assert_array_equal(line(below, 0)[1], PROBABILITIES[::-1])
    np.testing.assert_allclose(line(above, 1)[1], [0.2, 0.2])
    assert below.get_xlabel() == "z (mm)"
    assert above.get_title() == "bag 7"


def test_without_slice_probabilities_the_weights_stand_alone() -> None:
    (alone,) = attention_along_z([-10, -12, -14, -16, -18], WEIGHTS, None, LABELS).axes
    np.testing.assert_array_equal(line(alone, 0), [[-18, -16, -14, -12, -10], WEIGHTS[::-1]])
    assert alone.get_xlabel() == "z (mm)"


@pytest.mark.parametrize("z", [None, [np.nan] * 5, [1, 2, np.nan, 4, 5]])
def test_unknown_positions_are_replaced_by_the_slice_index(z: list[float] | None) -> None:
    above, below = attention_along_z(z, WEIGHTS, PROBABILITIES, LABELS).axes
    np.testing.assert_array_equal(line(above, 0)[0], np.arange(5))
    assert below.get_xlabel() == "slice index"


def test_spans_merge_equal_neighbours() -> None:
    spans = label_spans(np.array([0.0, 1.0, 2.0, 4.0, 6.0]), LABELS)
    assert spans == [(-0.5, 0.5, 0), (0.5, 3.0, 2), (3.0, 5.0, 1), (5.0, 7.0, 2)]


def test_one_slice_is_one_span() -> None:
    assert label_spans(np.array([3.0]), np.array([1])) == [(2.5, 3.5, 1)]


def test_each_kind_of_slice_is_shaded_and_named_once() -> None:
    figure = attention_along_z(None, WEIGHTS, PROBABILITIES, LABELS)
    spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in figure.axes[0].patches]  # type: ignore[attr-defined]
    assert spans == [(0.5, 2.5), (2.5, 3.5), (3.5, 4.5)]
    assert legend(figure) == ["weight", "equal weights (1/5)", "malignant (true)", "benign (true)"]


def test_unknown_labels_are_marked() -> None:
    figure = attention_along_z(None, WEIGHTS, PROBABILITIES, [-1, -1, 0, 0, 0])
    assert len(figure.axes[0].patches) == 1
    assert legend(figure)[-1] == "label unknown"


@pytest.mark.parametrize(
    ("weights", "probabilities", "labels", "message"),
    [
        ([], [], [], "at least one slice"),
        ([0.5, 0.5], [0.1], [0, 0], "slice probabilities have shape"),
        ([0.5, 0.5], [0.1, 0.2], [0], "slice labels have shape"),
    ],
)
def test_inputs_of_different_lengths_are_refused(
    weights: list[float], probabilities: list[float], labels: list[int], message: str
) -> None:
    with pytest.raises(LungtlError, match=message):
        attention_along_z(None, weights, probabilities, labels)


def test_the_montage_shows_each_slice_in_grey_under_its_caption() -> None:
    images = [np.full((8, 8), value, dtype=np.uint8) for value in (0, 90, 255, 7, 8)]
    figure = montage(images, [f"bag {k}, w=0.{k}" for k in range(5)])
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in drawn] == [f"bag {k}, w=0.{k}" for k in range(5)]
    for axes, expected in zip(drawn, images, strict=True):
        np.testing.assert_array_equal(image(axes), expected)
        # A fixed range: stretching each slice on its own would make nothing look like something.
        assert axes.images[0].get_clim() == (0, 255)


def test_slices_with_a_nodule_are_framed_in_its_colour() -> None:
    figure = montage([np.zeros((8, 8), dtype=np.uint8)] * 4, ["s"] * 4, labels=[2, 0, 1, 2])
    assert [axes.get_frame_on() for axes in figure.axes] == [True, False, True, True]
    colours = [to_hex(axes.spines["left"].get_edgecolor()).upper() for axes in figure.axes]
    assert [colours[0], colours[2], colours[3]] == [VERMILLION, GREEN, VERMILLION]
    assert legend(figure) == ["frame: malignant (true)", "frame: benign (true)"]


def test_slices_without_labels_have_no_frames() -> None:
    figure = montage([np.zeros((8, 8), dtype=np.uint8)] * 2, ["s"] * 2)
    assert not any(axes.get_frame_on() for axes in figure.axes)
    assert not figure.legends


def test_lines_of_a_caption_stay_lines() -> None:
    figure = montage([np.zeros((8, 8), dtype=np.uint8)], ["LIDC-IDRI-0001 z 3 mm\nw=0.1"])
    assert figure.axes[0].get_title() == "LIDC-IDRI-0001 z 3 mm\nw=0.1"


def test_long_captions_stay_over_their_own_slice(tmp_path: Path) -> None:
    series = "1.3.6.1.4.1.14519.5.2.1.6279.6001.298806137288633453246975630178, z -120 mm, w=0.12"
    figure = montage([np.zeros((8, 8), dtype=np.uint8)] * 4, [series] * 4)
    save(figure, tmp_path / "montage.png")
    boxes = [axes.title.get_window_extent() for axes in figure.axes]
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))
    assert min(box.y0 for box in boxes) > 0
    assert max(box.y1 for box in boxes) <= figure.bbox.height + 1


def test_the_montage_notes_omitted_slices() -> None:
    figure = montage([np.zeros((4, 4), dtype=np.uint8)] * 18, ["s"] * 18)
    assert sum(bool(axes.images) for axes in figure.axes) == 16
    assert figure.get_suptitle() == "first 16 of 18 slices"
    figure = montage([np.zeros((4, 4), dtype=np.uint8)] * 18, ["s"] * 18, title="whose they are")
    assert figure.get_suptitle() == "whose they are\nfirst 16 of 18 slices"


@pytest.mark.parametrize("count", [1, 3, 8])
def test_title_captions_and_legend_do_not_overlap(count: int, tmp_path: Path) -> None:
    images = [np.zeros((8, 8), dtype=np.uint8)] * count
    captions = ["LIDC-IDRI-0001 z 3 mm\nw=0.12 p=0.91 malignant"] * count
    heat = [np.ones((8, 8), dtype=np.float32)] * count
    for figure in (montage(images, captions, [2] * count, "title"),
                   montage(images, captions, [2] * count, "title", heat)):  # fmt: skip
        save(figure, tmp_path / "montage.png")
        (title,) = figure.texts
        grid = [axes for axes in figure.axes if axes.images]
        boxes = [axes.title.get_window_extent() for axes in grid]
        assert max(box.y1 for box in boxes) <= title.get_window_extent().y0 + 1
        assert min(axes.get_window_extent().y0 for axes in grid) >= figure.legends[0].get_window_extent().y1
        for axes in grid:
            assert not any(axes.get_window_extent().overlaps(box) for box in boxes)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4)])
def test_few_slices_fill_the_figure(count: int, columns: int, tmp_path: Path) -> None:
    figure = montage([np.zeros((8, 8), dtype=np.uint8)] * count, ["s"] * count)
    save(figure, tmp_path / "montage.png")
    box = figure.axes[0].get_window_extent()
    assert box.width == pytest.approx(box.height)
    assert 0.85 <= columns * box.width / figure.bbox.width <= 1


def test_an_empty_montage_has_a_note() -> None:
    assert montage([], []).axes[0].texts[0].get_text() == "no slices"


def test_images_that_are_not_grey_bytes_are_refused() -> None:
    with pytest.raises(LungtlError, match=r"image 0 is float64 of shape \(4, 4\); expected uint8"):
        montage([np.zeros((4, 4))], ["s"])  # type: ignore[list-item]
    with pytest.raises(LungtlError, match="1 images and 2 captions"):
        montage([np.zeros((4, 4), dtype=np.uint8)], ["a", "b"])
    with pytest.raises(LungtlError, match="1 images and 2 labels"):
        montage([np.zeros((4, 4), dtype=np.uint8)], ["a"], [0, 1])
