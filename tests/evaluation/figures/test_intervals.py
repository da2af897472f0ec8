from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lungtl.evaluation.estimate import Estimate
from lungtl.evaluation.figures import dot_with_intervals, save, subgroup_forest
from lungtl.settings.errors import LungtlError
from tests.evaluation.figures.drawn import line

ROWS = [
    {"group": group, "level": level, "n": n, "n_positive": positive, **asdict(estimate), "auroc": estimate.value}
    for group, level, n, positive, estimate in (
        ("nodule_size", "small", 9, 3, Estimate(0.7, 0.6, 0.8)),
        ("nodule_size", "large", 8, 6, Estimate(0.9, 0.8, 0.95)),
        ("readers", "4", 2, 2, Estimate(None, undefined="2 cases, fewer than 10")),
    )
]


def bare(value: float) -> Estimate:
    return Estimate(value, undefined="no interval")


def names(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def numbers(figure: Figure) -> list[str]:
    (right,) = figure.axes[0].child_axes
    return [label.get_text() for label in right.get_yticklabels()]


def dots(axes: Axes) -> list[tuple[float, float]]:
    """x and line of every dot."""
    drawn = [line(axes, i) for i in range(len(axes.lines)) if axes.lines[i].get_marker() == "o"]
    return [(float(x), float(y)) for points in drawn for x, y in points.T]


def test_each_name_has_its_dot_its_interval_and_its_numbers() -> None:
    figure = dot_with_intervals(
        ["a", "b"], [Estimate(0.7, 0.6, 0.9), Estimate(0.8, 0.75, 0.85)], xlabel="AUROC", title="Runs"
    )
    axes = figure.axes[0]
    assert names(figure) == ["a", "b"]
    assert numbers(figure) == ["0.700 [0.600, 0.900]", "0.800 [0.750, 0.850]"]
    assert dots(axes) == [(0.7, 0), (0.8, 1)]
    np.testing.assert_array_equal(line(axes, 1), [[0.6, 0.9], [0, 0]])
    np.testing.assert_array_equal(line(axes, 3), [[0.75, 0.85], [1, 1]])
    assert axes.yaxis_inverted()
    assert axes.get_xlabel() == "AUROC"
    assert figure.get_suptitle() == "Runs"


def test_a_control_is_hollow_and_just_below_its_name() -> None:
    estimates = [Estimate(0.7, 0.6, 0.9), Estimate(0.8, 0.75, 0.85)]
    figure = dot_with_intervals(["a", "b"], estimates, xlabel="AUROC", controls=[None, Estimate(0.5, 0.4, 0.6)])
    axes = figure.axes[0]
    assert numbers(figure) == ["0.700 [0.600, 0.900]", "0.800 [0.750, 0.850]"]
    assert dots(axes) == [(0.7, 0), (0.8, 1), (0.5, pytest.approx(1.27))]
    np.testing.assert_allclose(line(axes, 5), [[0.4, 0.6], [1.27, 1.27]])
    assert [axes.lines[i].get_markerfacecolor() == "white" for i in (0, 2, 4)] == [False, False, True]


def test_names_of_several_lines_do_not_overlap() -> None:
    several = ["a", "b\nb\nb", "c\nc", "d", "e\ne\ne"]
    figure = dot_with_intervals(several, [bare(0.7)] * len(several), xlabel="AUROC")
    figure.canvas.draw()
    assert [y for _, y in dots(figure.axes[0])] == [0, 2, 4.5, 6, 8]
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(upper.y0 > lower.y1 for upper, lower in pairwise(boxes))


def test_an_undefined_estimate_keeps_its_line() -> None:
    figure = dot_with_intervals(
        ["a", "b"], [Estimate(None, undefined="one class"), bare(0.8)], xlabel="AUROC", reference=0.5
    )
    assert numbers(figure) == ["undefined", "0.800"]
    assert dots(figure.axes[0]) == [(0.8, 1)]
    np.testing.assert_array_equal(line(figure.axes[0], 1)[0], [0.5, 0.5])


def test_numbers_align_with_their_names(tmp_path: Path) -> None:
    figure = dot_with_intervals(["a", "b", "c"], [bare(0.7), bare(0.8), bare(0.9)], xlabel="AUROC")
    save(figure, tmp_path / "dots.png")
    left = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    right = [label.get_window_extent() for label in figure.axes[0].child_axes[0].get_yticklabels()]
    for name, number in zip(left, right, strict=True):
        assert (name.y0 + name.y1) / 2 == pytest.approx((number.y0 + number.y1) / 2, abs=3)
    assert max(box.x1 for box in right) <= figure.bbox.width + 1


def test_subgroups_are_listed_under_their_group() -> None:
    figure = subgroup_forest(ROWS, overall=0.85)
    assert names(figure) == [
        "nodule size", "small  (3 of 9 malignant)", "large  (6 of 8 malignant)", "readers", "4  (2 of 2 malignant)",
    ]  # fmt: skip
    assert numbers(figure) == ["", "0.700 [0.600, 0.800]", "0.900 [0.800, 0.950]", "", "undefined"]
    weights = [label.get_fontweight() for label in figure.axes[0].get_yticklabels()]
    assert [weight == "bold" for weight in weights] == [True, False, False, True, False]
    assert dots(figure.axes[0]) == [(0.7, 1), (0.9, 2)]
    assert figure.get_suptitle() == "AUROC by subgroup (dashed: all cases, 0.850)"


def test_invalid_input_is_refused() -> None:
    with pytest.raises(LungtlError, match="2 names and 1 estimates"):
        dot_with_intervals(["a", "b"], [bare(0.5)], xlabel="x")
    with pytest.raises(LungtlError, match="0 names"):
        dot_with_intervals([], [], xlabel="x")
    with pytest.raises(LungtlError, match="0 names and 0 estimates"):
        subgroup_forest([])
