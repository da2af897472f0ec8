"""What a figure has on it, as arrays."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray


def line(axes: Axes, index: int) -> NDArray[np.float64]:
    """The x and y values of a line, [2, points]."""
    drawn = axes.lines[index]
    return np.array([np.asarray(drawn.get_xdata(), float), np.asarray(drawn.get_ydata(), float)])


def image(axes: Axes) -> NDArray[np.float64]:
    values = axes.images[0].get_array()
    assert values is not None
    return np.asarray(values, dtype=np.float64)


def legend(axes: Axes) -> list[str]:
    box = axes.get_legend()
    assert box is not None
    return [text.get_text() for text in box.get_texts()]
