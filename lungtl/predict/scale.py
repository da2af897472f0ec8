"""The probability on a scale, with the model's thresholds and the cases that it was validated on."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lungtl.bundle.ranges import Quantiles
from lungtl.evaluation.figures.canvas import BLACK, BLUE, GREEN, GREY, VERMILLION
from lungtl.predict.pictures import DPI, FONT, INCHES, Picture, drawn, spread_apart
from lungtl.predict.result import SeriesResult

COLOURS = {"0": GREEN, "1": VERMILLION}
LABELS = {"0": "not malignant", "1": "malignant"}
POINTS = {
    "specificity_90": "90 % specificity",
    "specificity_95": "95 % specificity",
    "sensitivity_90": "90 % sensitivity",
    "sensitivity_95": "95 % sensitivity",
    "youden": "best of both (Youden)",
}
"""Operating points as a reader calls them."""
LABEL_WIDTH = 0.17
"""Of a threshold's name, as a part of the scale."""


def scale(result: SeriesResult, reference: Mapping[str, Quantiles]) -> Picture:
    """Draw the scale from 0 to 1.

    Args:
        result: of one series or nodule; the thresholds are those of a single model, and omitted for several.
        reference: label ("0", "1") -> quantiles of the model's probabilities of its validation cases; may be empty.
    """
    rows = [label for label in LABELS if label in reference]
    above = 1.3 if len(result.models) == 1 else 0.7
    height = above + 0.3 + 0.36 * len(rows)
    figure = Figure(figsize=(INCHES, height), dpi=DPI)
    axes = figure.add_axes((0.23, 0.45 / height, 0.74, (height - above) / height))
    axes.set(xlim=(0, 1), ylim=(-0.7, len(rows) + 0.7), yticks=[])
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.set_xticks([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
    for place, label in enumerate(rows):
        _draw_quantiles(axes, place, reference[label], COLOURS[label])
        name = f"validation, {LABELS[label]} ({reference[label].n})"
        axes.text(-0.012, place, name, ha="right", va="center", fontsize=FONT - 1, color=COLOURS[label])
    axes.tick_params(labelsize=FONT - 1)
    own = len(rows)
    networks = [p for each in result.models for p in each.prediction.of_members]
    if len(networks) > 1:
        axes.plot(networks, [own] * len(networks), "|", color=BLUE, markersize=12, markeredgewidth=1.5)
    axes.plot([result.probability], [own], "D", color=BLUE, markersize=9, zorder=5, clip_on=False)
    axes.axvline(result.probability, color=BLUE, linewidth=1, zorder=0)
    axes.text(-0.012, own, "this nodule" if result.point else "this scan", ha="right", va="center", fontsize=FONT,
              fontweight="bold", color=BLUE)  # fmt: skip
    if len(result.models) == 1:
        _draw_thresholds(axes, result)
    return drawn(figure)


def _draw_quantiles(axes: Axes, y: float, found: Quantiles, colour: str) -> None:
    """A box from the lower to the upper quartile with the median, and a line from the lowest to the highest."""
    axes.plot([found.min, found.max], [y, y], color=colour, linewidth=1.2)
    axes.barh(y, found.p75 - found.p25, left=found.p25, height=0.5, color=colour, alpha=0.35, linewidth=0)
    axes.plot([found.p50, found.p50], [y - 0.3, y + 0.3], color=colour, linewidth=2.5)


def _draw_thresholds(axes: Axes, result: SeriesResult) -> None:
    """The thresholds as dashed lines with their names above; equal ones share a name."""
    names: dict[float, list[str]] = {}
    for point, decision in result.models[0].decisions.items():
        if decision is not None:
            names.setdefault(decision.threshold, []).append(POINTS.get(point, point))
    thresholds = sorted(names)
    top = axes.get_ylim()[1]
    for threshold, shown in zip(thresholds, spread_apart(thresholds, LABEL_WIDTH, (-0.1, 1.1)), strict=True):
        axes.axvline(threshold, color=BLACK, linewidth=1, linestyle=(0, (3, 3)))
        arrow = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6}
        axes.annotate("\n".join(names[threshold]), (threshold, top), (shown, top + 0.25), fontsize=FONT - 2,
                      ha="center", va="bottom", annotation_clip=False, arrowprops=arrow)  # fmt: skip
