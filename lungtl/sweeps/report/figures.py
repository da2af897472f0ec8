"""The figures of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lungtl.sweeps.report.comparisons import averaged
from lungtl.sweeps.report.factors import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lungtl.sweeps.report.comparable import TestSet
    from lungtl.sweeps.report.effects import Effect

Floats = NDArray[np.float64]

COLOURED = 6  # settings that get a colour in the ROC figure
LINES = 40  # settings in the figure of intervals
LOG_FROM = 1.5  # decades that an axis of costs spans
NAME = 48  # characters of a label
COVERING = 12  # pixels between points whose numbers would cover each other


def intervals(tested: TestSet) -> Figure:
    """Test AUROC of each setting with its interval, the best on validation first."""
    from lungtl.evaluation.figures import dot_with_intervals

    shown = tested.settings[:LINES]
    scores = [setting.test["auroc"] for setting in shown]
    left_out = len(tested.settings) - len(shown)
    return dot_with_intervals(
        [_plain(setting.label) for setting in shown],
        [score.value for score in scores],
        [_at_most(score.low, score.value) for score in scores],
        [_at_least(score.high, score.value) for score in scores],
        xlabel="test AUROC, mean over seeds, 95 % interval",
        title="Settings, by validation AUROC" + (f" ({left_out} lower ones left out)" if left_out else ""),
        reference=0.5,
    )


def effects_figure(effects: Sequence[Effect]) -> Figure:
    """The difference that each level makes, with its interval."""
    from lungtl.evaluation.figures import dot_with_intervals

    scores = [effect.difference for effect in effects]
    return dot_with_intervals(
        [_plain(f"{short(effect.factor)}: {effect.level} - {effect.reference}") for effect in effects],
        [score.value for score in scores],
        [_at_most(score.low, score.value) for score in scores],
        [_at_least(score.high, score.value) for score in scores],
        xlabel="difference in test AUROC, all else equal, 95 % interval",
        reference=0.0,
    )


def roc_overlay(tested: TestSet, controls: Mapping[str, Floats]) -> Figure:
    """The ROC curve of each setting, seeds averaged, and of each control that ranks."""
    from lungtl.evaluation.figures.canvas import (
        BLACK,
        BLUE,
        CONTROLS,
        GREY,
        SKY,
        VERMILLION,
        new_figure,
        say,
        tidy,
    )

    figure = new_figure(6.4)
    axes = figure.add_subplot(
        xlabel="1 - specificity (false positive rate)", ylabel="sensitivity", aspect="equal",
        xlim=(-0.01, 1.01), ylim=(-0.01, 1.01),
    )  # fmt: skip
    tidy(axes)
    labels = tested.test.labels
    axes.set_title(f"ROC on {len(labels)} test bags, {labels.sum()} positive; averaged over seeds")
    if labels.min() == labels.max():
        say(axes, "undefined: one class")
        return figure
    colours = [BLUE, *CONTROLS, SKY]
    for number, setting in enumerate(tested.settings):
        x, y, area = _curve(labels, averaged(tested.test, setting))
        if number >= COLOURED:
            axes.plot(x, y, color=GREY, linewidth=0.8, alpha=0.4, zorder=2)
        else:
            (line,) = axes.plot(x, y, color=colours[number], label=f"{_plain(setting.label)}, AUC {area:.2f}")
            line.set(linewidth=2.4 if setting is tested.best else 1.4, zorder=3 - number / COLOURED)
    for (name, says), style in zip(controls.items(), ("--", "-.", ":"), strict=False):
        if np.ptp(says) > 0:
            x, y, area = _curve(labels, says)
            axes.plot(x, y, color=BLACK, linestyle=style, linewidth=1.2, label=f"control: {name}, AUC {area:.2f}")
    axes.plot([0, 1], [0, 1], color=VERMILLION, linestyle=":", linewidth=1, label="any constant prediction")
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", fontsize=8, ncols=2)
    return figure


def cost_figure(tested: TestSet, costs: Mapping[str, Sequence[float | None]]) -> Figure:
    """Test AUROC against what it cost, a panel a cost; the numbers are the places of the settings, from 1.

    Args:
        tested: the runs.
        costs: name of a cost -> its value for each setting; None where it was not recorded.
    """
    from matplotlib.ticker import NullFormatter

    from lungtl.evaluation.figures.canvas import MODEL, new_figure, tidy

    figure = new_figure(3.4 * len(costs))
    panels = figure.subplots(len(costs), 1, squeeze=False)[:, 0]
    for axes, (name, values) in zip(panels, costs.items(), strict=True):
        tidy(axes)
        axes.set(
            xlabel=name, ylabel="test AUROC, 95 % interval", xscale="log" if _decades(values) > LOG_FROM else "linear"
        )
        axes.xaxis.set_minor_formatter(NullFormatter())
        points: dict[int, tuple[float, float]] = {}
        for number, (setting, cost) in enumerate(zip(tested.settings, values, strict=True), start=1):
            score = setting.test["auroc"]
            if cost is None or score.value is None:
                continue
            points[number] = (cost, score.value)
            axes.plot(cost, score.value, "o", color=MODEL)
            if score.low is not None and score.high is not None:
                axes.plot([cost, cost], [score.low, score.high], color=MODEL, linewidth=1, alpha=0.4)
        _number(axes, points)
    return figure


def _number(axes: Axes, points: Mapping[int, tuple[float, float]]) -> None:
    """Write numbers beside their points; those of points that cover each other stand together."""
    axes.get_xlim()  # settles the limits, by which data become pixels
    together: list[list[int]] = []
    for number, point in points.items():
        at = axes.transData.transform(point)
        near = (group for group in together if np.hypot(*(axes.transData.transform(points[group[0]]) - at)) < COVERING)
        found = next(near, None)
        if found is None:
            together.append([number])
        else:
            found.append(number)
    for group in together:
        text = ", ".join(map(str, group))
        axes.annotate(text, points[group[0]], (5, 3), textcoords="offset points", fontsize=8)


def _decades(values: Sequence[float | None]) -> float:
    """How many powers of ten the values span; 0 where one is 0, which has no logarithm."""
    known = [value for value in values if value is not None]
    return 0.0 if min(known) <= 0 else float(np.log10(max(known) / min(known)))


def _curve(labels: NDArray[np.int64], probabilities: Floats) -> tuple[Floats, Floats, float]:
    """False positive rates, sensitivities, and the area below."""
    from lungtl.evaluation.figures.curves import ROC
    from lungtl.evaluation.weighted import Rows

    positive, negative = Rows(labels, probabilities, 0.5).ranked(np.ones((1, len(labels))))
    x, y = ROC.points(positive[0], negative[0])
    return x, y, float(np.trapezoid(y, x))


def _plain(label: str) -> str:
    """A label that matplotlib does not take for mathematics, and that leaves room for the axes."""
    shown = label if len(label) <= NAME else f"{label[: NAME - 3]}..."
    return shown.replace("$", r"\$")


def _at_most(low: float | None, value: float | None) -> float | None:
    """The lower end of what is drawn: a percentile interval need not hold the value."""
    return low if low is None or value is None else min(low, value)


def _at_least(high: float | None, value: float | None) -> float | None:
    return high if high is None or value is None else max(high, value)
