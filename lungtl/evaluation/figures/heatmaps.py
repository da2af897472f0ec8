"""Grad-CAM heatmaps over their slices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lungtl.evaluation.figures.grid import slice_grid
from lungtl.settings.errors import LungtlError

COLOURS = "inferno"
SCALE_INCHES = 0.8  # the height of the colour scale and its labels
OPACITY = 0.6
"""Of the highest value; the slice must stay visible under it."""


def gradcam_montage(
    images: Sequence[NDArray[np.uint8]],
    maps: Sequence[NDArray[np.float32]],
    captions: Sequence[str],
    labels: Sequence[int] | None = None,
    title: str = "",
) -> Figure:
    """Draw slices overlaid with their heatmaps, laid out as in `montage`.

    Each map is scaled to its own maximum, since maps of different bags share no scale: it shows where in a slice the
    evidence is; the weight in the caption shows how much the slice counted. A map of zeros leaves its slice unchanged.

    Args:
        images: uint8 [H, W] each, most important first; at most 16 are drawn.
        maps: float32 [H, W] each, not negative, from `slice_heatmaps`.
        captions: one per image.
        labels: the slices' labels, framed as in `montage`.
        title: which slices they are.

    Returns:
        The figure.

    Raises:
        LungtlError: the counts or shapes differ, or a map has a negative or non-finite value.
    """
    if len(maps) != len(images):
        raise LungtlError(f"there are {len(images)} images and {len(maps)} maps; expected one per image")
    figure, grid = slice_grid(images, captions, labels, title, SCALE_INCHES if images else 0)
    for k, axes in enumerate(grid):
        heat = np.asarray(maps[k], dtype=np.float64)
        if heat.shape != images[k].shape:
            raise LungtlError(f"map {k} has shape {heat.shape}, its image {images[k].shape}; expected the same")
        if not (np.isfinite(heat) & (heat >= 0)).all():
            raise LungtlError(f"map {k} contains negative or non-finite values; pass the output of slice_heatmaps")
        if heat.max() > 0:
            share = heat / heat.max()
            axes.imshow(share, cmap=COLOURS, vmin=0, vmax=1, alpha=OPACITY * share)
    if grid:
        scale = ScalarMappable(Normalize(0, 1), COLOURS)
        share_of_figure = 0.1 / figure.get_figheight()
        bar = figure.colorbar(
            scale,
            ax=figure.axes,
            location="bottom",
            fraction=share_of_figure,
            aspect=50,
            pad=share_of_figure,
            ticks=[0, 1],
        )
        bar.ax.set_xticklabels(["none", "most"], fontsize=9)
        bar.set_label("evidence for malignancy within the slice (Grad-CAM)", fontsize=9)
    return figure
