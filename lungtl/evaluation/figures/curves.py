"""ROC and precision-recall curves: the model with the band of the patient bootstrap, the controls dashed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.bootstrap import patient_bootstrap, percentile_interval
from lungtl.evaluation.checks import check_labels, check_probabilities, patient_codes
from lungtl.evaluation.figures.canvas import CONTROLS, GREY, MODEL, new_figure, say, tidy
from lungtl.evaluation.metrics import score
from lungtl.evaluation.weighted import Rows

Floats = NDArray[np.float64]

GRID = np.linspace(0, 1, 101)
"""Where on the x axis the band is evaluated."""


@dataclass(frozen=True)
class Curve:
    """One kind of curve.

    Attributes:
        title, xlabel, ylabel, legend: of the axes; legend is the corner that the curve leaves free.
        metric: its area, a name in `METRICS`.
        area: what the legend calls that.
        points: weights of positives and negatives by descending probability, two [G] -> x and y of the curve.
        on_grid: x and y of the curve -> y at `GRID`.
        drawstyle: how matplotlib joins the points.
    """

    title: str
    xlabel: str
    ylabel: str
    legend: Literal["lower left", "lower right"]
    metric: str
    area: str
    points: Callable[[Floats, Floats], tuple[Floats, Floats]]
    on_grid: Callable[[Floats, Floats], Floats]
    drawstyle: str


def roc(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patient_ids: Iterable[object],
    controls: Mapping[str, ArrayLike] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Figure:
    """Draw sensitivity against 1 - specificity.

    Args:
        labels: int [N], 0 or 1.
        probabilities: float [N] in [0, 1], of the positive class.
        patient_ids: one a row; the band is the pointwise 95 % interval from resampling patients.
        controls: name -> probabilities [N] of a trivial predictor, drawn dashed. One that says the same for
            all is left out: its curve is the reference line.
        resamples: bootstrap replicates; 0 leaves the band out.
        seed: of the draws; with that of `score`, the legend has the same numbers.

    Returns:
        The figure; with one class it says that the curve is undefined.

    Raises:
        LungtlError: on input that `score` refuses.
    """
    return _plot(ROC, labels, probabilities, list(patient_ids), controls or {}, resamples, seed)


def precision_recall(
    labels: ArrayLike,
    probabilities: ArrayLike,
    patient_ids: Iterable[object],
    controls: Mapping[str, ArrayLike] | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Figure:
    """Draw precision against recall, in the steps whose area is the average precision (AP).

    Args:
        labels: as for `roc`, like all the others.
        probabilities: float [N].
        patient_ids: one a row.
        controls: name -> probabilities [N].
        resamples: bootstrap replicates.
        seed: of the draws.

    Returns:
        The figure; with one class it says that the curve is undefined.

    Raises:
        LungtlError: on input that `score` refuses.
    """
    return _plot(PR, labels, probabilities, list(patient_ids), controls or {}, resamples, seed)


def _plot(
    curve: Curve,
    labels: ArrayLike,
    probabilities: ArrayLike,
    patient_ids: list[object],
    controls: Mapping[str, ArrayLike],
    resamples: int,
    seed: int,
) -> Figure:
    table = score(labels, probabilities, patient_ids, resamples=resamples, seed=seed)
    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    figure = new_figure(6.4)
    axes = figure.add_subplot(xlabel=curve.xlabel, ylabel=curve.ylabel, aspect="equal")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_title(f"{curve.title}: n = {table.n}, {table.n_positive} positive, {table.n_patients} patients")
    tidy(axes)
    if not 0 < table.n_positive < table.n:
        say(axes, f"undefined: one class\n({table.n_positive} of {table.n} positive)")
        return figure

    estimate = table.metrics[curve.metric]
    interval = "" if estimate.low is None else f" [{estimate.low:.2f}, {estimate.high:.2f}]"
    _line(axes, curve, "model", y, p, MODEL, "-", interval)
    if interval:
        low, high = _band(curve, Rows(y, p, 0.5), patient_codes(patient_ids, len(y)), resamples, seed)
        name = "95 % band, patients resampled"
        axes.fill_between(GRID, low, high, color=MODEL, alpha=0.15, linewidth=0, label=name)
    predicted = {name: check_probabilities(values, len(y)) for name, values in controls.items()}
    ranking = [(name, values) for name, values in predicted.items() if np.ptp(values) > 0]
    for (name, values), colour in zip(ranking, cycle(CONTROLS), strict=False):
        _line(axes, curve, name, y, values, colour, "--")
    _line(axes, curve, "any constant prediction", y, np.full(len(y), 0.5), GREY, ":")
    # First in the legend, yet drawn over the others.
    axes.lines[0].set(zorder=4, linewidth=2.2)
    axes.legend(loc=curve.legend, framealpha=0.9)
    return figure


def _line(
    axes: Axes,
    curve: Curve,
    name: str,
    y: NDArray[np.int64],
    p: Floats,
    colour: str,
    linestyle: str,
    interval: str = "",
) -> None:
    positive, negative = Rows(y, p, 0.5).ranked(np.ones((1, len(y))))
    area = score(y, p, range(len(y)), resamples=0).metrics[curve.metric].value
    axes.plot(
        *curve.points(positive[0], negative[0]),
        color=colour,
        linestyle=linestyle,
        linewidth=1.6,
        drawstyle=curve.drawstyle,
        label=f"{name}, {curve.area} {area:.2f}{interval}",
    )


def _band(curve: Curve, rows: Rows, patients: NDArray[np.int64], resamples: int, seed: int) -> tuple[Floats, Floats]:
    def on_grid(weights: Floats) -> Floats:
        values = np.full((len(GRID), len(weights)), np.nan)
        for r, (positive, negative) in enumerate(zip(*rows.ranked(weights), strict=True)):
            drawn = positive + negative > 0
            if positive.any() and negative.any():
                values[:, r] = curve.on_grid(*curve.points(positive[drawn], negative[drawn]))
        return values

    low, high, _ = percentile_interval(patient_bootstrap(on_grid, patients, resamples=resamples, seed=seed))
    return low, high


def _roc_points(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    tp, fp = np.cumsum(positive), np.cumsum(negative)
    return np.r_[0, fp / fp[-1]], np.r_[0, tp / tp[-1]]


def _roc_on_grid(x: Floats, y: Floats) -> Floats:
    return np.interp(GRID, x, y)


def _pr_points(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    tp, fp = np.cumsum(positive), np.cumsum(negative)
    precision = tp / (tp + fp)
    # Only a threshold that gains recall has a step; the others would show as spikes between the steps.
    gains = positive > 0
    precision = precision[gains]
    return np.r_[0, (tp / tp[-1])[gains]], np.r_[precision[0], precision]


def _pr_on_grid(x: Floats, y: Floats) -> Floats:
    # The precision at a recall is that of the first threshold which reaches it; recall 0 is reached by none.
    return y[np.searchsorted(x, np.maximum(GRID - 1e-9, 1e-9))]


ROC = Curve(
    title="ROC",
    xlabel="1 - specificity (false positive rate)",
    ylabel="sensitivity",
    legend="lower right",
    metric="auroc",
    area="AUC",
    points=_roc_points,
    on_grid=_roc_on_grid,
    drawstyle="default",
)
PR = Curve(
    title="Precision-recall",
    xlabel="recall (sensitivity)",
    ylabel="precision",
    legend="lower left",
    metric="auprc",
    area="AP",
    points=_pr_points,
    on_grid=_pr_on_grid,
    drawstyle="steps-pre",
)
