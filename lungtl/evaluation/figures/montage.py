"""Slices in a grid, each under its caption, with or without Grad-CAM heatmaps."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Polygon
from numpy.typing import NDArray

from lungtl.evaluation.figures.canvas import GREEN, GREY, VERMILLION, WIDTH_INCHES, new_figure, write_centred
from lungtl.evaluation.figures.outlines import COLOURS, Outline
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import BENIGN, MALIGNANT, UNKNOWN

KINDS = {
    MALIGNANT: ("malignant (true)", VERMILLION, None),
    BENIGN: ("benign (true)", GREEN, None),
    UNKNOWN: ("label unknown", GREY, "//"),
}
"""Slice label -> name, colour and hatch; slices without a nodule stay unmarked."""

MAX_SLICES = 16
COLUMNS = 4
LINE_CHARACTERS = 96  # of captions, over the width of the figure
HEAT_COLOURS = "inferno"
SCALE_INCHES = 0.8  # the height of the colour scale of heatmaps and its labels
OPACITY = 0.6
"""Of a heatmap's highest value; the slice must stay visible under it."""


def montage(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    labels: Sequence[int] | None = None,
    title: str = "",
    maps: Sequence[NDArray[np.float32]] | None = None,
    aspects: Sequence[float] | None = None,
    outlines: Sequence[Sequence[Outline]] | None = None,
) -> Figure:
    """Draw slices in a grid of up to four columns, in grey, each under its caption; one alone fills the figure.

    Each heatmap is scaled to its own maximum, since maps of different scans share no scale: it shows where in a slice
    the evidence is, and not how much the slice counted.

    Args:
        images: uint8 [H, W] each, most important first; at most 16 are drawn.
        captions: one per image, such as "LIDC-0003 z -120 mm, w=0.12, p=0.91, malignant".
        labels: the slices' labels (-1 unknown, 0 non-nodule, 1 benign, 2 malignant); a slice with a nodule gets a
            frame in its colour, one with an unknown label a dotted frame. None for no frames.
        title: which slices they are.
        maps: a heatmap per image, float32 [H, W], not negative, from `slice_heatmaps`; None for none.
        aspects: height of each image's pixels divided by their width; None for square ones.
        outlines: drawn in each image, around nodules; None for none.

    Raises:
        LungtlError: the counts or shapes differ, an image is not uint8 [H, W], or a map has a negative or non-finite
            value.
    """
    for name, given in (("captions", captions), ("labels", labels), ("maps", maps), ("aspects", aspects),
                        ("outlines", outlines)):  # fmt: skip
        if given is not None and len(given) != len(images):
            raise LungtlError(f"there are {len(images)} images and {len(given)} {name}; expected one per image")
    n = min(len(images), MAX_SLICES)
    columns = max(1, min(n, COLUMNS))
    rows = max(1, math.ceil(n / columns))
    width = LINE_CHARACTERS // columns
    texts = ["\n".join(textwrap.fill(line, width) for line in caption.splitlines()) for caption in captions[:n]]
    lines = max((text.count("\n") + 1 for text in texts), default=1)
    titles = [title] if title else []
    if n < len(images):
        titles.append(f"first {n} of {len(images)} slices")
    scale_inches = SCALE_INCHES if images and maps is not None else 0
    figure = new_figure(0.5 + 0.2 * len(titles) + (WIDTH_INCHES / columns + 0.14 * lines) * rows + scale_inches)
    if titles:
        figure.suptitle("\n".join(titles), fontsize=10)
    if not images:
        write_centred(figure.add_subplot(frame_on=False, xticks=[], yticks=[]), "no slices")
        return figure
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for k in range(n):
        _show(grid[k], k, np.asarray(images[k]), texts[k])
    handles = [] if labels is None else _frame(grid[:n], labels)
    handles += _outline(grid[:n], outlines or ())
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
        figure.set_figheight(figure.get_figheight() + 0.2 * ((len(handles) - 1) // 2))  # of further lines
    if maps is not None:
        for k in range(n):
            _overlay(grid[k], k, images[k], np.asarray(maps[k], dtype=np.float64))
        _add_scale(figure)
    for axes, aspect in zip(grid, aspects or (), strict=False):
        axes.set_aspect(aspect)
    return figure


def windowed(hu: NDArray[np.int16], window: tuple[float, float]) -> NDArray[np.uint8]:
    """A slice through a display window (centre, width): int16 [H, W] -> uint8 [H, W]."""
    centre, width = window
    grey = (hu.astype(np.float32) - (centre - width / 2)) / width * 255
    image: NDArray[np.uint8] = np.clip(grey, 0, 255).astype(np.uint8)
    return image


def _show(axes: Axes, k: int, image: NDArray[np.uint8], caption: str) -> None:
    if image.ndim != 2 or image.dtype != np.uint8:
        raise LungtlError(f"image {k} is {image.dtype} of shape {image.shape}; expected uint8 [H, W]")
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set_title(caption, fontsize=7.5, pad=4)


def _frame(grid: list[Axes], labels: Sequence[int]) -> list[Patch]:
    """Frame slices in the colours of their labels; returns the legend's handles."""
    found = set()
    for axes, label in zip(grid, labels, strict=False):
        if label in KINDS:
            _, colour, hatch = KINDS[label]
            axes.set_frame_on(True)
            axes.spines[:].set(edgecolor=colour, linewidth=2.5, linestyle=":" if hatch else "-")
            found.add(label)
    return [
        Patch(facecolor="none", edgecolor=colour, linewidth=2, linestyle=":" if hatch else "-", label=f"frame: {name}")
        for label, (name, colour, hatch) in KINDS.items()
        if label in found
    ]


def _outline(grid: list[Axes], outlines: Sequence[Sequence[Outline]]) -> list[Patch]:
    """Draw the outlines; returns the legend's handles."""
    found = set()
    for axes, drawn in zip(grid, outlines, strict=False):
        for outline in drawn:
            colour = COLOURS[outline.kind][1]
            axes.add_patch(Polygon(outline.points[:, ::-1], fill=False, edgecolor=colour, linewidth=0.8))
            found.add(outline.kind)
    return [Patch(facecolor="none", edgecolor=COLOURS[kind][1], label=kind) for kind in COLOURS if kind in found]


def _overlay(axes: Axes, k: int, image: NDArray[np.uint8], heat: NDArray[np.float64]) -> None:
    if heat.shape != image.shape:
        raise LungtlError(f"map {k} has shape {heat.shape}, its image {image.shape}; expected the same")
    if not (np.isfinite(heat) & (heat >= 0)).all():
        raise LungtlError(f"map {k} contains negative or non-finite values; pass the output of slice_heatmaps")
    if heat.max() > 0:
        share = heat / heat.max()
        axes.imshow(share, cmap=HEAT_COLOURS, vmin=0, vmax=1, alpha=OPACITY * share)


def _add_scale(figure: Figure) -> None:
    scale = ScalarMappable(Normalize(0, 1), HEAT_COLOURS)
    share = 0.1 / figure.get_figheight()
    bar = figure.colorbar(
        scale, ax=figure.axes, location="bottom", fraction=share, aspect=50, pad=share, ticks=[0, 1]
    )  # fmt: skip
    bar.ax.set_xticklabels(["none", "most"], fontsize=9)
    bar.set_label("evidence for malignancy within the slice (Grad-CAM)", fontsize=9)
