"""Where a scan was cropped: slices with the crop box, above the same slices cropped."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lungtl.evaluation.figures.canvas import ORANGE, new_figure
from lungtl.sources.ct.lungs import Box
from lungtl.sources.ct.volume import Volume

LUNG_WINDOW_HU = (-1350.0, 150.0)
SLICES = 5


def crops(volume: Volume, box: Box, title: str = "") -> Figure:
    """Draw slices spread evenly over a scan, each with the crop box and, below it, the cropped slice.

    Args:
        volume: the scan before cropping.
        box: the crop, in its pixels.
        title: of the figure.

    Returns:
        The figure, one column per slice (at most five, from the lowest to the highest), in a lung window.
    """
    low, high = LUNG_WINDOW_HU
    row_mm, column_mm = volume.pixel_spacing_mm
    count = len(volume.hu)
    chosen = np.unique(((np.arange(SLICES) + 0.5) * count / SLICES).astype(int))
    figure = new_figure(3.4)
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(2, len(chosen), squeeze=False)
    for (above, below), k in zip(grid.T, chosen, strict=True):
        cropped = volume.hu[k, box.top : box.bottom, box.left : box.right]
        for axes, image in ((above, volume.hu[k]), (below, cropped)):
            axes.imshow(image, cmap="gray", vmin=low, vmax=high, aspect=row_mm / column_mm)
            axes.set_axis_off()
        # Pixel centres have whole coordinates, so a pixel's edge is half a pixel before it.
        corner = (box.left - 0.5, box.top - 0.5)
        above.add_patch(Rectangle(corner, box.width, box.height, fill=False, edgecolor=ORANGE, linewidth=1.2))
        above.set_title(f"z {volume.z_mm[k]:g} mm\n{volume.hu.shape[2]} x {volume.hu.shape[1]}", fontsize=8)
        below.set_title(f"{box.width} x {box.height}", fontsize=8)
    return figure
