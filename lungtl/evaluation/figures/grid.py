"""Slices in a grid, each under its caption."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from lungtl.evaluation.figures.canvas import GREEN, GREY, VERMILLION, new_figure, write_centred
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import BENIGN, MALIGNANT, UNKNOWN

KINDS = {
    MALIGNANT: ("malignant (true)", VERMILLION, None),
    BENIGN: ("benign (true)", GREEN, None),
    UNKNOWN: ("label unknown", GREY, "//"),
}
"""Slice label -> name, colour and hatch; slices without a nodule stay unmarked."""

SHOWN = 16
COLUMNS = 4
CAPTION_CHARACTERS = 24  # a line over one column


def slice_grid(
    images: Sequence[NDArray[np.uint8]],
    captions: Sequence[str],
    labels: Sequence[int] | None,
    title: str,
    below: float = 0,
) -> tuple[Figure, list[Axes]]:
    """Draw slices in a grid of four columns, in grey.

    Args:
        images: uint8 [H, W] each, most important first; at most 16 are drawn.
        captions: one per image.
        labels: the slices' labels; a slice with a nodule gets a frame in its colour, one with an unknown label a
            dotted frame. None for no frames.
        title: which slices they are; may be empty.
        below: inches to reserve under the slices.

    Returns:
        The figure, with a note if there are no images or not all are drawn, and the axes of those drawn.

    Raises:
        LungtlError: the counts differ or an image is not uint8 [H, W].
    """
    for name, given in (("captions", captions), ("labels", labels)):
        if given is not None and len(given) != len(images):
            raise LungtlError(f"there are {len(images)} images and {len(given)} {name}; expected one per image")
    shown = min(len(images), SHOWN)
    rows = max(1, math.ceil(shown / COLUMNS))
    texts = ["\n".join(map(_wrapped, caption.splitlines())) for caption in captions[:shown]]
    lines = max((text.count("\n") + 1 for text in texts), default=1)
    over = [title] if title else []
    if shown < len(images):
        over.append(f"first {shown} of {len(images)} slices")
    figure = new_figure(0.5 + 0.2 * len(over) + (1.6 + 0.14 * lines) * rows + below)
    if over:
        figure.suptitle("\n".join(over), fontsize=10)
    if not images:
        write_centred(figure.add_subplot(frame_on=False, xticks=[], yticks=[]), "no slices")
        return figure, []
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in grid:
        axes.set(xticks=[], yticks=[], frame_on=False)
    for k in range(shown):
        image = np.asarray(images[k])
        if image.ndim != 2 or image.dtype != np.uint8:
            raise LungtlError(f"image {k} is {image.dtype} of shape {image.shape}; expected uint8 [H, W]")
        grid[k].imshow(image, cmap="gray", vmin=0, vmax=255)
        grid[k].set_title(texts[k], fontsize=7.5, pad=4)
    drawn = list(grid[:shown])
    if labels is not None:
        _frame(figure, drawn, labels)
    return figure, drawn


def _frame(figure: Figure, grid: list[Axes], labels: Sequence[int]) -> None:
    found = []
    for axes, label in zip(grid, labels, strict=False):
        if label in KINDS:
            _, colour, hatch = KINDS[label]
            axes.set_frame_on(True)
            axes.spines[:].set(edgecolor=colour, linewidth=2.5, linestyle=":" if hatch else "-")
            found.append(label)
    handles = [
        Patch(facecolor="none", edgecolor=colour, linewidth=2, linestyle=":" if hatch else "-", label=f"frame: {name}")
        for label, (name, colour, hatch) in KINDS.items()
        if label in found
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=9)


def _wrapped(line: str) -> str:
    return textwrap.fill(line, CAPTION_CHARACTERS)
