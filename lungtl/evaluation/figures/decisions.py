"""Whether a probability means what it says, and what a threshold on it decides."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lungtl.evaluation.checks import check_labels, check_probabilities, check_threshold
from lungtl.evaluation.figures.canvas import BLACK, GREY, MODEL, new_figure, tidy
from lungtl.evaluation.metrics import score
from lungtl.evaluation.weighted import CALIBRATION_BINS, calibration_bin


def reliability(labels: ArrayLike, probabilities: ArrayLike) -> Figure:
    """Draw the share of positives against the mean probability of ten equal-width bins, their counts below.

    Args:
        labels: int [N], 0 or 1.
        probabilities: float [N] in [0, 1], of the positive class.

    Returns:
        The figure; empty bins are left out.

    Raises:
        LungtlError: on input that `score` refuses.
    """
    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    metrics = score(y, p, range(len(y)), resamples=0).metrics
    bins = calibration_bin(p)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = np.flatnonzero(counts)
    observed = [y[bins == i].mean() for i in filled]
    predicted = [p[bins == i].mean() for i in filled]

    figure = new_figure(7.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="perfectly calibrated")
    above.plot(predicted, observed, color=MODEL, linewidth=1, alpha=0.6)
    # A bin of one row is 0 or 1 whatever the model: let it look as light as it weighs.
    sizes = 15 + 185 * counts[filled] / counts.max()
    above.scatter(predicted, observed, s=sizes, color=MODEL, zorder=3, label="model (area: count)")
    above.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), ylabel="observed share of positives")
    above.set_title(f"Calibration: ECE {metrics['ece'].value:.3f}, Brier {metrics['brier'].value:.3f} (n = {len(y)})")
    above.legend(loc="upper left", framealpha=0.9)
    width = 1 / CALIBRATION_BINS
    bars = below.bar((np.arange(CALIBRATION_BINS) + 0.5) * width, counts, width=0.94 * width, color=MODEL, alpha=0.6)
    below.bar_label(bars, [str(count) if count else "" for count in counts], fontsize=9)
    below.set(xlabel="predicted probability", ylabel="count", xticks=np.arange(CALIBRATION_BINS + 1) * width)
    below.margins(y=0.2)
    tidy(above)
    tidy(below)
    return figure


def confusion(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> Figure:
    """Draw the confusion matrix at a threshold: counts, and their share of the true class (row).

    Args:
        labels: int [N], 0 or 1.
        probabilities: float [N] in [0, 1], of the positive class.
        threshold: a row is called positive from this probability on.

    Returns:
        The figure; a class without rows has no shares.

    Raises:
        LungtlError: on input that `score` refuses.
    """
    y = check_labels(labels)
    called = check_probabilities(probabilities, len(y)) >= check_threshold(threshold)
    counts = np.zeros((2, 2), dtype=np.int64)
    np.add.at(counts, (y, called.astype(np.int64)), 1)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)

    figure = new_figure(5.6)
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
