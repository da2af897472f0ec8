"""ROC and precision-recall curves: the model with the band of the patient bootstrap, the controls dashed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import cycle
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.bootstrap import patient_bootstrap, percentile_interval
from lungtl.evaluation.checks import check_probabilities, check_rows, check_threshold
from lungtl.evaluation.figures.canvas import BLACK, CONTROLS, GREY, MODEL, YELLOW, new_figure, tidy, write_centred
from lungtl.evaluation.metrics import score
from lungtl.evaluation.weighted import METRICS, Floats, Rows

Labels = NDArray[np.int64]
Bools = NDArray[np.bool_]

MARKERS = "osD^vP"
"""Of the operating points, in their order."""

GRID = np.linspace(0, 1, 101)
"""Where on the x axis the band is evaluated."""


class Curve(ABC):
    """One kind of curve: its texts, and how it follows from counts of positives and negatives."""

    title: str
    xlabel: str
    ylabel: str
    legend: Literal["lower left", "lower right"]  # the corner that the curve leaves free
    metric: str  # its area, a name in `METRICS`
    area: str  # its area's name in the legend
    drawstyle: str  # how matplotlib joins the points

    @abstractmethod
    def points(self, positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
        """X and y of the curve, from the weight of positives and of negatives by descending probability, two [G]."""

    @abstractmethod
    def on_grid(self, x: Floats, y: Floats) -> Floats:
        """Y of the curve at `GRID`."""

    @abstractmethod
    def at(self, positive: Bools, called: Bools) -> tuple[tuple[float, float], str]:
        """X, y and legend of an operating point, from which rows are positive and which are called positive."""

    def trace(self, labels: Labels, probabilities: Floats) -> tuple[Floats, Floats, float]:
        """X and y of the curve of some predictions, and its area."""
        rows, once = Rows(labels, probabilities, 0.5), np.ones((1, len(labels)))
        positive, negative = rows.ranked(once)
        return *self.points(positive[0], negative[0]), float(rows.metrics(once)[METRICS.index(self.metric), 0])

    def axes(self, figure: Figure) -> Axes:
        """Empty axes, from 0 to 1."""
        axes = figure.add_subplot(xlabel=self.xlabel, ylabel=self.ylabel, aspect="equal")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        tidy(axes)
        return axes


class RocCurve(Curve):
    """Sensitivity against 1 - specificity."""

    title, drawstyle = "ROC", "default"
    legend = "lower right"
    xlabel, ylabel = "1 - specificity (false positive rate)", "sensitivity"
    metric, area = "auroc", "AUC"

    def points(self, positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
        tp, fp = np.cumsum(positive), np.cumsum(negative)
        return np.r_[0, fp / fp[-1]], np.r_[0, tp / tp[-1]]

    def on_grid(self, x: Floats, y: Floats) -> Floats:
        return np.interp(GRID, x, y)

    def at(self, positive: Bools, called: Bools) -> tuple[tuple[float, float], str]:
        sensitivity, specificity = called[positive].mean(), (~called[~positive]).mean()
        return (1 - specificity, sensitivity), f"sensitivity {sensitivity:.2f}, specificity {specificity:.2f}"


class PrecisionRecallCurve(Curve):
    """Precision against recall, in the steps whose area is the average precision (AP)."""

    title, drawstyle = "Precision-recall", "steps-pre"
    legend = "lower left"
    xlabel, ylabel = "recall (sensitivity)", "precision"
    metric, area = "auprc", "AP"

    def points(self, positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
        tp, fp = np.cumsum(positive), np.cumsum(negative)
        precision = tp / (tp + fp)
        # Only thresholds that gain recall; the others would show as spikes between the steps.
        gains = positive > 0
        precision = precision[gains]
        return np.r_[0, (tp / tp[-1])[gains]], np.r_[precision[0], precision]

    def on_grid(self, x: Floats, y: Floats) -> Floats:
        # The precision at a recall is that of the first threshold to reach it; no threshold has recall 0.
        return y[np.searchsorted(x, np.maximum(GRID - 1e-9, 1e-9))]

    def at(self, positive: Bools, called: Bools) -> tuple[tuple[float, float], str]:
        recall = called[positive].mean()
        if not called.any():
            return (recall, np.nan), "none called positive, precision undefined"
        precision = positive[called].mean()
        return (recall, precision), f"recall {recall:.2f}, precision {precision:.2f}"


ROC, PR = RocCurve(), PrecisionRecallCurve()


def draw_curve(
    curve: Curve,
    labels: ArrayLike,
    probabilities: ArrayLike,
    patient_ids: Iterable[object],
    controls: Mapping[str, ArrayLike] | None = None,
    *,
    thresholds: Mapping[str, float | None] | None = None,
    resamples: int = 1000,
) -> Figure:
    """Draw a curve of the model with its pointwise 95 % band, and of trivial predictors.

    Controls, name -> probabilities [N], are drawn dashed; a constant one is omitted, since its curve is the reference
    line. Thresholds by name, as from `choose_thresholds`, are marked on the curve unless None. With one class there
    is only a note that the curve is undefined.
    """
    patient_ids = list(patient_ids)
    table = score(labels, probabilities, patient_ids, resamples=resamples)
    y, p, patients = check_rows(labels, probabilities, patient_ids)
    marked = {name: threshold for name, threshold in (thresholds or {}).items() if threshold is not None}
    figure = new_figure(5.2 + (0.35 + 0.2 * len(marked) if marked else 0))
    axes = curve.axes(figure)
    axes.set_title(f"{curve.title}: n = {table.n}, {table.n_positive} positive, {table.n_patients} patients")
    if not 0 < table.n_positive < table.n:
        write_centred(axes, f"undefined: one class\n({table.n_positive} of {table.n} positive)")
        return figure

    estimate = table.metrics[curve.metric]
    interval = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    _line(axes, curve, "model", y, p, MODEL, "-", interval)
    if interval:
        low, high = _band(curve, Rows(y, p, 0.5), patients, resamples)
        name = "95 % band, patients resampled"
        axes.fill_between(GRID, low, high, color=MODEL, alpha=0.15, linewidth=0, label=name)
    predicted = {name: check_probabilities(values, len(y)) for name, values in (controls or {}).items()}
    ranking = [(name, values) for name, values in predicted.items() if np.ptp(values) > 0]
    for (name, values), colour in zip(ranking, cycle(CONTROLS), strict=False):
        _line(axes, curve, name, y, values, colour, "--")
    _line(axes, curve, "any constant prediction", y, np.full(len(y), 0.5), GREY, ":")
    # First in the legend, but drawn on top.
    axes.lines[0].set(zorder=4, linewidth=2.2)
    axes.legend(loc=curve.legend, framealpha=0.9, fontsize=9)
    if marked:
        title = "operating points: target, threshold, result here"
        marks = _mark(axes, curve, y, p, marked)
        figure.legend(handles=marks, loc="outside lower center", fontsize=9, title=title)
    return figure


roc = partial(draw_curve, ROC)
precision_recall = partial(draw_curve, PR)


def _mark(axes: Axes, curve: Curve, y: Labels, p: Floats, thresholds: Mapping[str, float]) -> list[Line2D]:
    """Mark the operating points on the curve; returns the marks, for a separate legend."""
    marks = []
    for (name, threshold), marker in zip(thresholds.items(), cycle(MARKERS), strict=False):
        point, result = curve.at(y == 1, p >= check_threshold(threshold))
        label = f"{name.replace('_', ' ')}, p >= {threshold:.2f}: {result}"
        marks += axes.plot(*point, linestyle="", marker=marker, markersize=9, color=MODEL, label=label)
        marks[-1].set(markerfacecolor=YELLOW, markeredgecolor=BLACK, zorder=5, clip_on=False)
    return marks


def _line(
    axes: Axes, curve: Curve, name: str, labels: Labels, p: Floats, colour: str, linestyle: str, interval: str = ""
) -> None:
    x, y, area = curve.trace(labels, p)
    label = f"{name}, {curve.area} {area:.2f}{interval}"
    axes.plot(x, y, color=colour, linestyle=linestyle, linewidth=1.6, drawstyle=curve.drawstyle, label=label)


def _band(curve: Curve, rows: Rows, patients: Labels, resamples: int) -> tuple[Floats, Floats]:
    def on_grid(weights: Floats) -> Floats:
        values = np.full((len(GRID), len(weights)), np.nan)
        for r, (positive, negative) in enumerate(zip(*rows.ranked(weights), strict=True)):
            drawn = positive + negative > 0
            if positive.any() and negative.any():
                values[:, r] = curve.on_grid(*curve.points(positive[drawn], negative[drawn]))
        return values

    low, high, _ = percentile_interval(patient_bootstrap(on_grid, patients, resamples=resamples, seed=0))
    return low, high
