"""The aggregator's weights along z."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.figures.canvas import BLUE, GREY, new_figure, tidy
from lungtl.evaluation.figures.montage import KINDS
from lungtl.settings.errors import LungtlError


def attention_along_z(
    z_mm: ArrayLike | None,
    weights: ArrayLike,
    slice_probabilities: ArrayLike | None,
    slice_labels: ArrayLike,
    title: str = "",
) -> Figure:
    """Draw the aggregator's weights and the slice probabilities of one bag along z.

    Args:
        z_mm: float [S], positions in mm; None, or any NaN, to use the slice index instead.
        weights: float [S], the aggregator's; they sum to 1.
        slice_probabilities: float [S] in [0, 1], of the slice being malignant, drawn below; None to omit them.
        slice_labels: int [S], -1 unknown, 0 non-nodule, 1 benign, 2 malignant.
        title: of the figure.

    Raises:
        LungtlError: the bag is empty or the lengths differ.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 1 or w.size == 0:
        raise LungtlError(f"weights have shape {w.shape}; expected [S] with at least one slice")
    p = None if slice_probabilities is None else _per_slice("slice probabilities", slice_probabilities, len(w))
    labels = _per_slice("slice labels", slice_labels, len(w)).astype(np.int64)
    z = _per_slice("z positions", np.full(len(w), np.nan) if z_mm is None else z_mm, len(w))
    known = bool(np.isfinite(z).all())
    if not known:
        z = np.arange(len(w), dtype=np.float64)
    order = np.argsort(z, kind="stable")
    z, w, labels = z[order], w[order], labels[order]

    ratios = [3] if p is None else [3, 2]
    figure = new_figure(0.96 * sum(ratios))
    panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios, squeeze=False)[:, 0]
    above, lowest = panels[0], panels[-1]
    above.plot(z, w, color=BLUE, linewidth=1.6, marker="o", markersize=3, label="weight")
    above.axhline(1 / len(w), color=GREY, linewidth=1, linestyle=":", label=f"equal weights (1/{len(w)})")
    above.set_ylabel("weight of the slice")
    above.set_ylim(bottom=0)
    above.margins(y=0.1)
    above.set_title(title)
    if p is not None:
        lowest.plot(z, p[order], color=BLUE, linewidth=1.6, marker="o", markersize=3)
        lowest.set(ylim=(-0.03, 1.03), ylabel="P(slice malignant)")
    lowest.set_xlabel("z (mm)" if known else "slice index")
    if not known:
        lowest.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in panels:
        tidy(axes)
        _shade(axes, z, labels)
    handles, names = above.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=9)
    return figure


def label_spans(z: NDArray[np.float64], labels: NDArray[np.int64]) -> list[tuple[float, float, int]]:
    """(start, stop, label) of neighbouring slices with the same label; z is ascending.

    A span extends halfway to the next slice, and half a spacing beyond the first and the last.
    """
    middle = (z[1:] + z[:-1]) / 2
    first, last = (middle[0] - z[0], z[-1] - middle[-1]) if len(z) > 1 else (0.5, 0.5)
    edges = np.r_[z[0] - first, middle, z[-1] + last]
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    stops = np.r_[starts[1:], len(z)]
    return [(float(edges[a]), float(edges[b]), int(labels[a])) for a, b in zip(starts, stops, strict=True)]


def _shade(axes: Axes, z: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    named: set[int] = set()
    for start, stop, label in label_spans(z, labels):
        if label in KINDS:
            name, colour, hatch = KINDS[label]
            # A leading underscore keeps further spans of a label out of the legend.
            text = f"_{name}" if label in named else name
            axes.axvspan(start, stop, color=colour, alpha=0.2, hatch=hatch, linewidth=0, label=text)
            named.add(label)


def _per_slice(name: str, given: ArrayLike, n: int) -> NDArray[np.float64]:
    values = np.asarray(given, dtype=np.float64)
    if values.shape != (n,):
        raise LungtlError(f"{name} have shape {values.shape}, weights ({n},); expected one per slice")
    return values
