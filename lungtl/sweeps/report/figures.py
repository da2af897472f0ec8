"""The figures of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lungtl.evaluation.figures import dot_with_intervals, save, save_pdf
from lungtl.evaluation.figures.canvas import (
    BLACK,
    BLUE,
    CONTROLS,
    GREY,
    MODEL,
    SKY,
    new_figure,
    tidy,
    write_centred,
)  # fmt: skip
from lungtl.evaluation.figures.curves import ROC
from lungtl.evaluation.weighted import Floats
from lungtl.sweeps.report.comparable import AUROC, TestSet
from lungtl.sweeps.report.comparisons import split_controls
from lungtl.sweeps.report.effects import Effect
from lungtl.sweeps.report.factors import last_part
from lungtl.sweeps.report.sweep import COMPARED_COSTS, Sweep, cost

MAX_COLOURED = 6  # settings that get a colour in the ROC figure
MAX_LINES = 40  # settings in the figure of intervals
LOG_DECADES = 1.5  # an axis of costs that spans more is logarithmic
MAX_LABEL = 48  # characters
OVERLAP = 12  # pixels between points whose numbers would overlap


def draw_figures(sweep: Sweep, out: Path) -> dict[str, Path]:
    """Write the figures: intervals, roc and, where there is something to draw, effects and cost -> PNG.

    Each is next to its PDF.
    """
    tested = sweep.tested
    figures = {"intervals": interval_figure(tested), "roc": roc_figure(tested, split_controls(tested))}
    defined = [effect for effect in sweep.effects if effect.pairs]
    if defined:
        figures["effects"] = effect_figure(defined)
    costs = {name: [cost(tested, setting, key) for setting in tested.settings] for key, name in COMPARED_COSTS.items()}
    recorded = {name: values for name, values in costs.items() if any(values)}
    if recorded:
        figures["cost"] = cost_figure(tested, recorded)
    written = {name: save(figure, out / f"{name}.png") for name, figure in figures.items()}
    for name, figure in figures.items():
        save_pdf(figure, written[name].with_suffix(".pdf"))
    return written


def interval_figure(tested: TestSet) -> Figure:
    """Test AUROC of each setting with its interval, the best on validation first."""
    settings = tested.settings[:MAX_LINES]
    omitted = len(tested.settings) - len(settings)
    return dot_with_intervals(
        [_plot_label(setting.label) for setting in settings],
        [setting.test["auroc"] for setting in settings],
        xlabel="test AUROC, mean over seeds, 95 % interval",
        title="Settings, by validation AUROC" + (f" ({omitted} lower ones omitted)" if omitted else ""),
        reference=0.5,
    )


def effect_figure(effects: Sequence[Effect]) -> Figure:
    """The difference that each level makes, with its interval."""
    return dot_with_intervals(
        [_plot_label(f"{last_part(effect.factor)}: {effect.level} - {effect.reference}") for effect in effects],
        [effect.difference for effect in effects],
        xlabel="difference in test AUROC, everything else equal, 95 % interval",
        reference=0.0,
    )


def roc_figure(tested: TestSet, controls: Mapping[str, Floats]) -> Figure:
    """The ROC curve of each setting, averaged over seeds, and of each control that is not constant."""
    figure = new_figure(6.4)
    axes = ROC.axes(figure)
    labels = tested.test.labels
    axes.set_title(f"ROC on {len(labels)} test cases, {labels.sum()} positive; mean over seeds")
    if labels.min() == labels.max():
        write_centred(axes, "undefined: one class")
        return figure
    colours = [BLUE, *CONTROLS, SKY]
    for number, setting in enumerate(tested.settings):
        x, y = mean_curve([ROC.trace(labels, tested.test.probabilities[run])[:2] for run in setting.members])
        area = float(tested.test.values[setting.members, AUROC].mean())
        if number >= MAX_COLOURED:
            axes.plot(x, y, color=GREY, linewidth=0.8, alpha=0.4, zorder=2)
        else:
            (line,) = axes.plot(x, y, color=colours[number], label=f"{_plot_label(setting.label)}, AUC {area:.2f}")
            line.set(linewidth=2.4 if setting is tested.best else 1.4, zorder=3 - number / MAX_COLOURED)
    for (name, probabilities), style in zip(controls.items(), ("--", "-.", ":"), strict=False):
        if np.ptp(probabilities) > 0:
            x, y, area = ROC.trace(labels, probabilities)
            axes.plot(x, y, color=BLACK, linestyle=style, linewidth=1.2, label=f"control: {name}, AUC {area:.2f}")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1, label="any constant prediction")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize=10, ncols=2)
    return figure


def mean_curve(curves: Sequence[tuple[Floats, Floats]]) -> tuple[Floats, Floats]:
    """The mean over curves of y at each x; its area is the mean of their areas.

    Args:
        curves: x and y of each, both ascending; several y of one x are a vertical piece.
    """
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    ends = np.zeros((len(grid), 2))  # y before and after a vertical piece
    for x, y in curves:
        first, last = np.searchsorted(x, grid), np.searchsorted(x, grid, "right") - 1
        between = np.interp(grid, x, y)
        vertex = first <= last
        ends[:, 0] += np.where(vertex, y[np.minimum(first, len(y) - 1)], between)
        ends[:, 1] += np.where(vertex, y[last], between)
    return np.repeat(grid, 2), ends.ravel() / len(curves)


def cost_figure(tested: TestSet, costs: Mapping[str, Sequence[float | None]]) -> Figure:
    """Test AUROC against cost, one panel per cost; points are numbered like the settings, from 1.

    Args:
        tested: the runs.
        costs: name of a cost -> its value for each setting; None where it was not recorded.
    """
    figure = new_figure(3.4 * len(costs))
    panels = figure.subplots(len(costs), 1, squeeze=False)[:, 0]
    if len(tested.settings) > MAX_LINES:
        panels[0].set_title(f"the {MAX_LINES} settings with the highest validation AUROC")
    for axes, (name, values) in zip(panels, costs.items(), strict=True):
        tidy(axes)
        scale = "log" if _decades(values) > LOG_DECADES else "linear"
        axes.set(xlabel=name, ylabel="test AUROC, 95 % interval", xscale=scale)
        axes.xaxis.set_minor_formatter(NullFormatter())
        points: dict[int, tuple[float, float]] = {}
        pairs = list(zip(tested.settings, values, strict=True))[:MAX_LINES]
        for number, (setting, value) in enumerate(pairs, start=1):
            auroc = setting.test["auroc"]
            if value is None or auroc.value is None:
                continue
            points[number] = (value, auroc.value)
            axes.plot(value, auroc.value, "o", color=MODEL)
            if auroc.low is not None and auroc.high is not None:
                axes.plot([value, value], [auroc.low, auroc.high], color=MODEL, linewidth=1, alpha=0.4)
        _number_points(axes, points)
    return figure


def _number_points(axes: Axes, points: Mapping[int, tuple[float, float]]) -> None:
    """Write numbers next to their points; points that overlap share one text."""
    axes.get_xlim()  # fixes the limits, which map data to pixels
    groups: list[list[int]] = []
    for number, point in points.items():
        pixel = axes.transData.transform(point)
        near = (group for group in groups if np.hypot(*(axes.transData.transform(points[group[0]]) - pixel)) < OVERLAP)
        group = next(near, None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    for group in groups:
        text = ", ".join(map(str, group))
        axes.annotate(text, points[group[0]], (5, 3), textcoords="offset points", fontsize=10)


def _decades(values: Sequence[float | None]) -> float:
    """How many powers of ten the values span; 0 where one is 0, which has no logarithm."""
    known = [value for value in values if value is not None]
    return 0.0 if min(known) <= 0 else float(np.log10(max(known) / min(known)))


def _plot_label(label: str) -> str:
    """A label short enough for the axes, and without matplotlib's math mode."""
    text = label if len(label) <= MAX_LABEL else f"{label[: MAX_LABEL - 3]}..."
    return text.replace("$", r"\$")
