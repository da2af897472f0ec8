"""Decisions and probabilities by class: reliability diagram, confusion matrix, histogram."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.checks import check_labels, check_probabilities, check_threshold
from lungtl.evaluation.figures.canvas import BLACK, GREY, MODEL, VERMILLION, new_figure, tidy
from lungtl.evaluation.metrics import score
from lungtl.evaluation.weighted import CALIBRATION_BINS, calibration_bin

HISTOGRAM_EDGES = np.arange(21) / 20
"""np.linspace would put 0.15 below its own edge; i/20 is the nearest float to the literal."""


def reliability(labels: ArrayLike, probabilities: ArrayLike, calibrated: ArrayLike | None = None) -> Figure:
    """Draw the share of positives against the mean probability of ten equal-width bins, their counts below.

    Probabilities after calibration, float [N], are drawn in addition.
    """
    y = check_labels(labels)
    series = [("model", probabilities, MODEL, "o")]
    if calibrated is not None:
        series = [("before", probabilities, MODEL, "o"), ("after calibration", calibrated, VERMILLION, "D")]
    figure = new_figure(5.9)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="perfectly calibrated")
    width = 0.94 / CALIBRATION_BINS / len(series)
    middles = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    for k, (name, values, colour, marker) in enumerate(series):
        p = check_probabilities(values, len(y))
        metrics = score(y, p, range(len(y)), resamples=0).metrics
        label = f"{name}: ECE {metrics['ece'].value:.3f}, Brier {metrics['brier'].value:.3f}"
        counts = _draw_bins(above, y, p, colour, marker, label)
        bars = below.bar(middles + (k - (len(series) - 1) / 2) * width, counts, width=width, color=colour, alpha=0.6)
        below.bar_label(bars, [str(count) if count else "" for count in counts], fontsize=8)
    above.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="observed share of positives")
    above.set_title(f"Calibration (n = {len(y)}; area of a mark: count)")
    figure.legend(*above.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    below.set(xlabel="predicted probability", ylabel="count", xticks=np.arange(CALIBRATION_BINS + 1) / CALIBRATION_BINS)
    below.margins(y=0.25)
    tidy(above)
    tidy(below)
    return figure


def _draw_bins(
    axes: Axes, y: NDArray[np.int64], p: NDArray[np.float64], colour: str, marker: str, label: str
) -> NDArray[np.int64]:
    """Draw the filled bins; returns the rows in each, int64 [10]."""
    bins = calibration_bin(p)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = np.flatnonzero(counts)
    observed = [y[bins == i].mean() for i in filled]
    predicted = [p[bins == i].mean() for i in filled]
    axes.plot(predicted, observed, color=colour, linewidth=1, alpha=0.6)
    # A bin with one row is 0 or 1 for any model, so marks are as small as their bins.
    sizes = 15 + 135 * counts[filled] / counts.max()
    axes.scatter(predicted, observed, s=sizes, color=colour, marker=marker, zorder=3, label=label)
    return counts


def confusion(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> Figure:
    """Draw the confusion matrix at a threshold: counts, and their share of the true class (row)."""
    y = check_labels(labels)
    called = check_probabilities(probabilities, len(y)) >= check_threshold(threshold)
    counts = np.zeros((2, 2), dtype=np.int64)
    np.add.at(counts, (y, called.astype(np.int64)), 1)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)

    figure = new_figure(4.6)
    axes = figure.add_subplot()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for i in range(2):
        for j in range(2):
            share = f"{shares[i, j]:.0%} of row" if totals[i, 0] else "undefined: no rows"
            # White on the dark half of the colour map, black on the light one.
            colour = "white" if shares[i, j] > 0.55 else BLACK
            axes.text(j, i, f"{counts[i, j]}\n{share}", ha="center", va="center", color=colour, fontsize=15)
    names = ["not malignant", "malignant"]
    axes.set(xticks=[0, 1], yticks=[0, 1], xlabel="predicted", ylabel="true")
    axes.set_xticklabels(names)
    axes.set_yticklabels([f"{name}\n(n = {n})" for name, n in zip(names, totals[:, 0], strict=True)])
    axes.set_title(f"Confusion matrix: called malignant at p >= {threshold:.2f} (n = {len(y)})")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label="share of the true class")
    return figure


def score_histogram(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> Figure:
    """Draw histograms of the probabilities in bins of 0.05, malignant cases above the others."""
    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    called = p >= check_threshold(threshold)
    figure = new_figure(4.8)
    figure.suptitle(f"Probabilities by class, called malignant at p >= {threshold:.2f} (n = {len(y)})")
    above, below = figure.subplots(2, 1, sharex=True, sharey=True)
    classes = (
        (above, y == 1, called, VERMILLION, "malignant", "called malignant, sensitivity"),
        (below, y == 0, ~called, MODEL, "not malignant", "called not malignant, specificity"),
    )
    for axes, members, right, colour, name, share in classes:
        axes.hist(p[members], bins=HISTOGRAM_EDGES.tolist(), color=colour, edgecolor="white", linewidth=0.5)
        axes.axvline(threshold, color=BLACK, linewidth=1.2, linestyle="--")
        n, hits = int(members.sum()), int((members & right).sum())
        axes.set_title(f"{name}: {hits} of {n} {share} {hits / n:.2f}" if n else f"{name}: none", loc="left")
        axes.set(ylabel="cases", xlim=(0, 1))
        axes.yaxis.get_major_locator().set_params(integer=True)
        tidy(axes)
    below.set_xlabel("predicted probability of malignancy")
    return figure
