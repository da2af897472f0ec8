"""Forest plots: one line per name with its value and interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lungtl.evaluation.estimate import Estimate
from lungtl.evaluation.figures.canvas import GREY, MODEL, new_figure
from lungtl.evaluation.formatting import format_estimate
from lungtl.settings.errors import LungtlError

LINE_INCHES = 0.24


def dot_with_intervals(
    names: Sequence[str],
    estimates: Sequence[Estimate | None],
    *,
    xlabel: str,
    title: str = "",
    reference: float | None = None,
    controls: Sequence[Estimate | None] = (),
) -> Figure:
    """Draw a dot with its interval for each name, from top to bottom, with the numbers on the right.

    Args:
        names: at least one; a name of several lines gets their height.
        estimates: one per name; an undefined one is written as such, None makes the name a heading.
        xlabel: what the values are.
        title: of the figure.
        reference: a value marked by a dashed line, such as 0.5 for an AUROC or 0 for a difference.
        controls: one per name, or none; drawn hollow and thin just below the name's own, without numbers.

    Returns:
        The figure, as high as it needs to be.
    """
    if not len(names) == len(estimates) > 0:
        raise LungtlError(f"there are {len(names)} names and {len(estimates)} estimates; expected one per name")
    lines = [name.count("\n") + 1 for name in names]
    heights = [below - (own + 1) / 2 for below, own in zip(accumulate(lines), lines, strict=True)]
    figure = new_figure(0.9 + LINE_INCHES * sum(lines))
    # The title is that of the figure: long names would push an axes title off centre.
    figure.suptitle(title)
    axes = figure.add_subplot(xlabel=xlabel, ylim=(sum(lines) - 0.5, -0.5))
    axes.set_yticks(heights, names)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    for label, height, estimate in zip(axes.get_yticklabels(), heights, estimates, strict=True):
        if estimate is None:
            label.set_fontweight("bold")
        else:
            _draw(axes, height, estimate, linewidth=1.8, size=6, fill=MODEL)
    if controls:
        for height, control in zip(heights, controls, strict=True):
            if control is not None:
                _draw(axes, height + 0.27, control, linewidth=0.8, size=4.5, fill="white")
    right = axes.secondary_yaxis("right")
    right.set_yticks(heights, [format_estimate(estimate) for estimate in estimates])
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)
    if reference is not None:
        axes.axvline(reference, color=GREY, linewidth=1, linestyle="--", zorder=0)
    return figure


def _draw(axes: Axes, height: float, estimate: Estimate, linewidth: float, size: float, fill: str) -> None:
    """A dot, and a line from end to end of its interval."""
    if estimate.value is not None:
        axes.plot(estimate.value, height, color=MODEL, marker="o", markersize=size, markerfacecolor=fill, zorder=3)
    if estimate.low is not None and estimate.high is not None:
        axes.plot(
            [estimate.low, estimate.high], [height, height], color=MODEL, linewidth=linewidth, solid_capstyle="butt"
        )


def subgroup_forest(rows: Sequence[Mapping[str, Any]], overall: float | None = None) -> Figure:
    """Draw the AUROC of each of the `subgroups` of metrics.json, at least one, under the name of its group.

    The overall AUROC is marked by a dashed line; a subgroup whose AUROC is undefined keeps its line.
    """
    lines: list[tuple[str, Estimate | None]] = []
    for group, members in groupby(rows, itemgetter("group")):
        lines.append((str(group).replace("_", " "), None))
        for row in members:
            auroc = Estimate(row["auroc"], row["low"], row["high"], row["undefined"])
            lines.append((f"{row['level']}  ({row['n_positive']} of {row['n']} malignant)", auroc))
    title = "AUROC by subgroup" if overall is None else f"AUROC by subgroup (dashed: all cases, {overall:.3f})"
    names, estimates = [name for name, _ in lines], [estimate for _, estimate in lines]
    return dot_with_intervals(names, estimates, xlabel="AUROC", title=title, reference=overall)
