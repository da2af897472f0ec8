"""Which slices a bag's probability came from: the weights along z, and the slices that weighed most."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from lungtl.errors import LungtlError
from lungtl.evaluation.figures.canvas import BLUE, GREEN, GREY, VERMILLION, new_figure, say, tidy

UNKNOWN, BENIGN, MALIGNANT = -1, 1, 2

SPANS = {
    MALIGNANT: ("malignant (true)", VERMILLION, None),
    BENIGN: ("benign (true)", GREEN, None),
    UNKNOWN: ("label unknown", GREY, "//"),
}
"""Slice label -> how its span is named, coloured and hatched; slices without a nodule stay white."""

MONTAGE_SLICES = 16
MONTAGE_COLUMNS = 4


def attention_along_z(
    z_mm: ArrayLike | None,
    weights: ArrayLike,
    slice_probabilities: ArrayLike,
    slice_labels: ArrayLike,
    title: str = "",
) -> Figure:
    """Draw the aggregator's weights and the slice probabilities of one bag along z.

    Args:
        z_mm: float [S], positions in mm; None, or any NaN, to use the slice index instead.
        weights: float [S], the aggregator's; they sum to 1.
        slice_probabilities: float [S] in [0, 1], of the slice being malignant.
        slice_labels: int [S], -1 unknown, 0 non-nodule, 1 benign, 2 malignant.
        title: of the figure.

    Returns:
        The figure.

    Raises:
        LungtlError: when the bag is empty or the lengths differ.
    """
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim != 1 or w.size == 0:
        raise LungtlError(f"weights have shape {w.shape}; wanted [S] with at least one slice")
    p = _per_slice("slice probabilities", slice_probabilities, len(w))
    labels = _per_slice("slice labels", slice_labels, len(w)).astype(np.int64)
    z = _per_slice("z positions", np.full(len(w), np.nan) if z_mm is None else z_mm, len(w))
    known = bool(np.isfinite(z).all())
    if not known:
        z = np.arange(len(w), dtype=np.float64)
    order = np.argsort(z, kind="stable")
    z, w, p, labels = z[order], w[order], p[order], labels[order]

    figure = new_figure(6.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    above.plot(z, w, color=BLUE, linewidth=1.6, marker="o", markersize=3, label="weight")
    above.axhline(1 / len(w), color=GREY, linewidth=1, linestyle=":", label=f"equal weights (1/{len(w)})")
    above.set_ylabel("weight of the slice")
    above.set_ylim(bottom=0)
    above.margins(y=0.1)
    above.set_title(title)
    below.plot(z, p, color=BLUE, linewidth=1.6, marker="o", markersize=3)
    below.set(ylim=(-0.03, 1.03), ylabel="P(slice malignant)", xlabel="z (mm)" if known else "slice index")
    if not known:
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (above, below):
        tidy(axes)
        _shade(axes, z, labels)
    handles, names = above.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), fontsize=9)
    return figure


def label_spans(z: NDArray[np.float64], labels: NDArray[np.int64]) -> list[tuple[float, float, int]]:
    """Join neighbouring slices with the same label.

    Args:
        z: float64 [S], ascending.
        labels: int [S].

    Returns:
        (start, stop, label) of each run. It reaches halfway to the next slice, and half a spacing beyond the
        first and the last.
    """
    middle = (z[1:] + z[:-1]) / 2
    first, last = (middle[0] - z[0], z[-1] - middle[-1]) if len(z) > 1 else (0.5, 0.5)
    edges = np.r_[z[0] - first, middle, z[-1] + last]
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    stops = np.r_[starts[1:], len(z)]
    return [(float(edges[a]), float(edges[b]), int(labels[a])) for a, b in zip(starts, stops, strict=True)]


def montage(images: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> Figure:
    """Draw slices in a grid of four columns, in grey, each under its caption.

    Args:
        images: uint8 [H, W] each, most important first; at most 16 are drawn.
        captions: one an image, such as "bag LIDC-0003, z -120 mm, w=0.12, p=0.91, malignant".

    Returns:
        The figure; it says so when there are no images, or when only the first 16 are drawn.

    Raises:
        LungtlError: when the counts differ or an image is not uint8 [H, W].
    """
    if len(images) != len(captions):
        raise LungtlError(f"there are {len(images)} images and {len(captions)} captions; wanted one an image")
    shown = min(len(images), MONTAGE_SLICES)
    rows = max(1, math.ceil(shown / MONTAGE_COLUMNS))
    texts = [textwrap.fill(caption, 28) for caption in captions[:shown]]
    lines = max((text.count("\n") + 1 for text in texts), default=1)
    figure = new_figure(0.25 + (2.0 + 0.15 * lines) * rows)
    if not images:
        say(figure.add_subplot(frame_on=False, xticks=[], yticks=[]), "no slices")
        return figure
    grid = figure.subplots(rows, MONTAGE_COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for k in range(shown):
        image = np.asarray(images[k])
        if image.ndim != 2 or image.dtype != np.uint8:
            raise LungtlError(f"image {k} is {image.dtype} of shape {image.shape}; wanted uint8 [H, W]")
        grid[k].imshow(image, cmap="gray", vmin=0, vmax=255)
        grid[k].set_title(texts[k], fontsize=7.5, pad=3)
    if shown < len(images):
        figure.suptitle(f"first {shown} of {len(images)} slices", fontsize=10)
    return figure


def _shade(axes: Axes, z: NDArray[np.float64], labels: NDArray[np.int64]) -> None:
    named: set[int] = set()
    for start, stop, label in label_spans(z, labels):
        if label in SPANS:
            name, colour, hatch = SPANS[label]
            # A leading underscore keeps the second span of a label out of the legend.
            text = f"_{name}" if label in named else name
            axes.axvspan(
                start,
                stop,
                facecolor=colour,
                edgecolor=colour,
                alpha=0.2,
                hatch=hatch,
                linewidth=0,
                label=text,
            )
            named.add(label)


def _per_slice(name: str, given: ArrayLike, n: int) -> NDArray[np.float64]:
    values = np.asarray(given, dtype=np.float64)
    if values.shape != (n,):
        raise LungtlError(f"{name} have shape {values.shape}, weights ({n},); wanted one a slice")
    return values
