"""Histogram of the predicted probabilities of each class."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lungtl.evaluation.checks import check_labels, check_probabilities, check_threshold
from lungtl.evaluation.figures.canvas import BLACK, MODEL, VERMILLION, new_figure, tidy

# np.linspace would put 0.15 below its own edge; i/20 is the nearest float to the literal.
EDGES = np.arange(21) / 20


def score_histogram(labels: ArrayLike, probabilities: ArrayLike, threshold: float = 0.5) -> Figure:
    """Draw histograms of the probabilities, malignant bags above the others.

    Args:
        labels: int [N], 0 or 1.
        probabilities: float [N] in [0, 1], of the positive class.
        threshold: marked; bags with at least this probability are called positive.

    Returns:
        The figure, in bins of 0.05, both classes on the same scale.
    """
    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    called = p >= check_threshold(threshold)
    figure = new_figure(4.8)
    figure.suptitle(f"Probabilities by class, called malignant at p >= {threshold:.2f} (n = {len(y)})")
    above, below = figure.subplots(2, 1, sharex=True, sharey=True)
    rows = (
        (above, y == 1, called, VERMILLION, "malignant", "called malignant, sensitivity"),
        (below, y == 0, ~called, MODEL, "not malignant", "called not malignant, specificity"),
    )
    for axes, own, right, colour, name, share in rows:
        axes.hist(p[own], bins=EDGES.tolist(), color=colour, edgecolor="white", linewidth=0.5)
        axes.axvline(threshold, color=BLACK, linewidth=1.2, linestyle="--")
        n, hits = int(own.sum()), int((own & right).sum())
        axes.set_title(f"{name}: {hits} of {n} {share} {hits / n:.2f}" if n else f"{name}: none", loc="left")
        axes.set(ylabel="cases", xlim=(0, 1))
        axes.yaxis.get_major_locator().set_params(integer=True)
        tidy(axes)
    below.set_xlabel("predicted probability of malignancy")
    return figure
