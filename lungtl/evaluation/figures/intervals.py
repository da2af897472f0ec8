"""A line a name: values with their intervals, subgroups, and what the factors of a sweep change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lungtl.evaluation.figures.canvas import GREY, MODEL, VERMILLION, new_figure
from lungtl.settings.errors import LungtlError

LINE_INCHES = 0.24


def dot_with_intervals(
    names: Sequence[str],
    values: Sequence[float | None],
    lows: Sequence[float | None],
    highs: Sequence[float | None],
    *,
    xlabel: str,
    title: str = "",
    reference: float | None = None,
) -> Figure:
    """Draw a dot with its interval for each name, from top to bottom (a forest plot), the numbers at the right.

    Args:
        names: n of them.
        values: n; None where undefined: the line then says so.
        lows: n, ends of the intervals; None where there is none.
        highs: n.
        xlabel: what the values are.
        title: of the figure.
        reference: a value marked by a dashed line, such as 0.5 for an AUROC or 0 for a difference.

    Returns:
        The figure, as high as it needs to be.

    Raises:
        LungtlError: when the counts differ, there are none, or an interval does not hold its value.
    """
    if not len(names) == len(values) == len(lows) == len(highs) > 0:
        counts = f"{len(names)} names, {len(values)} values, {len(lows)} lows, {len(highs)} highs"
        raise LungtlError(f"there are {counts}; wanted the same number of each, at least one")
    figure, axes = _lines(names, xlabel, title)
    rows = zip(names, values, lows, highs, strict=True)
    _write_right(axes, [_interval(axes, i, *row) for i, row in enumerate(rows)])
    _refer(axes, reference)
    return figure


def subgroup_forest(rows: Sequence[Mapping[str, Any]], overall: float | None = None) -> Figure:
    """Draw the AUROC of each subgroup with its interval, under the name of its group.

    Args:
        rows: of `score_subgroups`: group, level, n, n_positive, auroc, low, high; the last three None where undefined.
        overall: the AUROC of all bags, marked by a dashed line.

    Returns:
        The figure; a subgroup whose AUROC is undefined keeps its line.

    Raises:
        LungtlError: when there are no rows.
    """
    if not rows:
        raise LungtlError("there are no subgroups to draw; wanted at least one row of score_subgroups")
    lines: list[tuple[str, Mapping[str, Any] | None]] = []
    for group, members in groupby(rows, itemgetter("group")):
        lines.append((str(group).replace("_", " "), None))
        lines += [(f"{row['level']}  ({row['n_positive']} of {row['n']} malignant)", row) for row in members]
    title = "AUROC by subgroup" if overall is None else f"AUROC by subgroup (dashed: all bags, {overall:.3f})"
    figure, axes = _lines([name for name, _ in lines], "AUROC", title)
    right = []
    for i, (name, row) in enumerate(lines):
        right.append(_interval(axes, i, name, row["auroc"], row["low"], row["high"]) if row else _head(axes, i))
    _write_right(axes, right)
    _refer(axes, overall)
    return figure


def factor_effects(effects: Mapping[str, Mapping[str, Sequence[float]]], *, xlabel: str, title: str = "") -> Figure:
    """Draw what each level of each factor of a sweep achieves: a dot a run, a bar at their mean.

    Args:
        effects: factor (such as "aggregator") -> level (such as "mean") -> the metric of each of its runs.
        xlabel: the metric.
        title: of the figure.

    Returns:
        The figure; levels in the order given, under the name of their factor, with their means at the right.

    Raises:
        LungtlError: when there are no factors or a level has no runs.
    """
    lines: list[tuple[str, Sequence[float] | None]] = []
    for factor, levels in effects.items():
        lines += [(factor, None), *levels.items()]
    if not lines:
        raise LungtlError("there are no factors to draw; wanted at least one level with the metric of its runs")
    figure, axes = _lines([name for name, _ in lines], xlabel, title)
    _write_right(
        axes, [_head(axes, i) if runs is None else _runs(axes, i, name, runs) for i, (name, runs) in enumerate(lines)]
    )
    return figure


def _lines(names: Sequence[str], xlabel: str, title: str) -> tuple[Figure, Axes]:
    """An empty line for each name, the first at the top."""
    figure = new_figure(0.9 + LINE_INCHES * len(names))
    # Names may be long: over the whole width the title stays in the middle of the figure.
    figure.suptitle(title)
    axes = figure.add_subplot(xlabel=xlabel, ylim=(len(names) - 0.5, -0.5))
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _head(axes: Axes, i: int) -> str:
    """Make line i the name of a group; nothing stands at its right."""
    axes.get_yticklabels()[i].set_fontweight("bold")
    return ""


def _interval(axes: Axes, i: int, name: str, value: float | None, low: float | None, high: float | None) -> str:
    """Draw a dot and its interval on line i; returns the numbers."""
    if value is None:
        return "undefined"
    axes.plot(value, i, color=MODEL, marker="o", markersize=6)
    if low is None or high is None:
        return f"{value:.3f}"
    if not low <= value <= high:
        raise LungtlError(f"{name}: the interval [{low:g}, {high:g}] does not hold the value {value:g}")
    axes.plot([low, high], [i, i], color=MODEL, linewidth=1.8, solid_capstyle="butt")
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _runs(axes: Axes, i: int, level: str, runs: Sequence[float]) -> str:
    """Draw the runs of a level and their mean on line i; returns the mean."""
    if not len(runs):
        raise LungtlError(f"level {level} has no runs; leave it out")
    mean = float(np.mean(runs))
    axes.plot(runs, np.full(len(runs), i), "o", color=MODEL, alpha=0.5, markersize=5, markeredgewidth=0)
    axes.plot([mean, mean], [i - 0.3, i + 0.3], color=VERMILLION, linewidth=2.2)
    return f"mean {mean:.3f}, {len(runs)} run{'s' if len(runs) > 1 else ''}"


def _write_right(axes: Axes, texts: list[str]) -> None:
    """Write the numbers at the lines' ends."""
    right = axes.secondary_yaxis("right")
    right.set_yticks(range(len(texts)), texts)
    right.tick_params(length=0)
    right.spines["right"].set_visible(False)


def _refer(axes: Axes, reference: float | None) -> None:
    if reference is not None:
        axes.axvline(reference, color=GREY, linewidth=1, linestyle="--", zorder=0)
