"""The pictures of a page: overview, scale, key slices, and the page itself as pictures for viewers without HTML."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from lungtl.evaluation.figures.canvas import BLUE, GREY, VERMILLION
from lungtl.evaluation.figures.montage import HEAT_COLOURS, OPACITY, windowed
from lungtl.evaluation.figures.outlines import COLOURS, Outline
from lungtl.predict.result import KeySlice, SeriesResult
from lungtl.settings.sections import WINDOWS
from lungtl.sources.ct.lungs import lung_planes
from lungtl.sources.ct.volume import Volume, resample_z

DPI = 165
WIDTH = 2112
"""Of a page in pixels: four columns of 512 and their margins."""
INCHES = WIDTH / DPI
PANEL = 512
"""Pixels of a key slice: those of most scanners."""
FONT = 13
THIN_MM = 60.0
"""A thinner slab would be covered by lines."""
MARK = "#F0A000"
Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Planes:
    """A coronal and a sagittal plane of a volume, both in the lung window, on 1 mm slices.

    Attributes:
        coronal: uint8 [z, x], from the feet up.
        sagittal: uint8 [z, y].
        z_mm: of the rows.
        spacing_mm: (row, column) of the slices: of y and x.
        place: indices (y, x) of the planes.
    """

    coronal: Picture
    sagittal: Picture
    z_mm: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    place: tuple[int, int]

    @classmethod
    def of(cls, volume: Volume, place: tuple[int, int] | None = None) -> Planes:
        """The planes through a (row, column); None: those with the most lung."""
        row, column = place or lung_planes(volume)
        parts = (volume.hu[:, row : row + 1, :], volume.hu[:, :, column : column + 1])
        first, second = (resample_z(Volume(part, volume.z_mm, volume.pixel_spacing_mm)) for part in parts)
        window = WINDOWS["lung"]
        return cls(windowed(first.hu[:, 0, :], window), windowed(second.hu[:, :, 0], window), first.z_mm,
                   volume.pixel_spacing_mm, (row, column))  # fmt: skip


def overview(planes: Planes, result: SeriesResult) -> Picture:
    """Coronal and sagittal plane and the weight along z, on one z axis in mm, the key slices marked.

    Of a nodule the planes show its place. Its weight, and that of a thin slab, has an axis of its own.
    """
    height_mm = len(planes.z_mm)
    width_mm = planes.coronal.shape[1] * planes.spacing_mm[1]
    depth_mm = planes.sagittal.shape[1] * planes.spacing_mm[0]
    left, gap, right, weights, above, below = 0.95, 0.15, 0.75, 3.3, 0.45, 0.7
    per_mm = min((INCHES - left - 2 * gap - right - weights) / (width_mm + depth_mm), 7.2 / height_mm)
    height = max(height_mm * per_mm, 1.6)
    figure = Figure(figsize=(INCHES, height + above + below), dpi=DPI)
    low, high = planes.z_mm[0] - 0.5, planes.z_mm[-1] + 0.5
    middle = (low + high) / 2
    limits = middle - height / per_mm / 2, middle + height / per_mm / 2  # a thin slab is centred
    total_height = height + above + below

    def axes(start: float, width: float) -> Axes:
        return figure.add_axes((start / INCHES, below / total_height, width / INCHES, height / total_height))

    place = left
    for image, extent_mm, sides, title in (
        (planes.coronal, width_mm, "RL", "coronal"),
        (planes.sagittal, depth_mm, "AP", "sagittal"),
    ):
        panel = axes(place, extent_mm * per_mm)
        panel.imshow(image, cmap="gray", vmin=0, vmax=255, origin="lower", extent=(0, extent_mm, low, high),
                     aspect="auto", interpolation="bilinear")  # fmt: skip
        panel.set(ylim=limits, xticks=[])
        panel.set_title(title, fontsize=FONT)
        panel.set_facecolor("white")
        if sides == "AP":
            panel.set_yticks([])
        else:
            panel.set_ylabel("z (mm), feet to head", fontsize=FONT)
            panel.tick_params(labelsize=FONT - 1)
        for side, x, align in ((sides[0], 0.015, "left"), (sides[1], 0.985, "right")):
            panel.text(x, 0.96, side, transform=panel.transAxes, ha=align, va="top", color="#FFD060", fontsize=15,
                       fontweight="bold", path_effects=[withStroke(linewidth=2.5, foreground="black")])  # fmt: skip
        for key in () if result.point else result.key_slices:  # of a nodule they would hide it
            for start, stop in ((0, 0.04), (0.96, 1)):
                panel.axhline(key.z_mm, start, stop, color=MARK, linewidth=1.5 if height_mm > THIN_MM else 0.8)
            if height_mm > THIN_MM:
                panel.axhline(key.z_mm, color=MARK, linewidth=0.5, alpha=0.6)
        if result.point is not None:
            _circle(panel, planes, result, sides)
        place += extent_mm * per_mm + gap
    if result.point is not None or height_mm < THIN_MM:
        limits = float(result.slices["z_mm"].min()) - 1, float(result.slices["z_mm"].max()) + 1
    _weights(axes(place, INCHES - place - right), result, limits)
    return drawn(figure)


def _circle(panel: Axes, planes: Planes, result: SeriesResult, sides: str) -> None:
    """Mark the nodule of a point."""
    assert result.point is not None
    across = 1 if sides == "RL" else 0
    x = (planes.place[across] + 0.5) * planes.spacing_mm[across]
    panel.plot(
        [x], [result.point.position_mm[2]], "o", markersize=16, markerfacecolor="none", markeredgecolor=VERMILLION,
        markeredgewidth=1.5,
    )  # fmt: skip


def _weights(panel: Axes, result: SeriesResult, limits: tuple[float, float]) -> None:
    z, weight = result.slices["z_mm"].to_numpy(), result.slices["weight"].to_numpy() * 100
    most = max(float(weight.max()), 1e-6)
    panel.fill_betweenx(z, 0, weight, color=BLUE, alpha=0.25, linewidth=0)
    panel.plot(weight, z, color=BLUE, linewidth=1.2, marker="o" if len(z) < 40 else "", markersize=3)
    panel.axvline(100 / len(z), color=GREY, linewidth=1, linestyle=":")
    panel.set(ylim=limits, xlim=(0, most * 1.12))
    panel.set_title("weight of each 1 mm slice", fontsize=FONT)
    panel.set_xlabel("%; dotted: if all weighed the same", fontsize=FONT - 1)
    panel.tick_params(labelsize=FONT - 1)
    panel.yaxis.tick_right()
    panel.spines[["top", "left"]].set_visible(False)
    marked = []
    for key in result.key_slices:  # on the curve: the 1 mm slice that has the weight
        own = result.slices[result.slices["sop_instance_uid"] == key.sop_instance_uid]
        marked.append((float(own["z_mm"].iloc[int(own["weight"].argmax())]), key))
    marked.sort(key=lambda pair: pair[0])
    height = panel.get_window_extent().height / panel.figure.dpi  # inches
    spread = spread_apart([z for z, _ in marked], (limits[1] - limits[0]) * 0.24 / height, limits)
    for (place, key), shown in zip(marked, spread, strict=True):
        panel.plot([key.weight * 100], [place], "o", color=MARK, markersize=4)
        panel.annotate(str(key.rank), (key.weight * 100, place), (most * 1.08, shown), fontsize=FONT, ha="center",
                       va="center", fontweight="bold", color="#B06000",
                       arrowprops={"arrowstyle": "-", "color": MARK, "linewidth": 0.6})  # fmt: skip


def spread_apart(positions: Sequence[float], least: float, limits: tuple[float, float]) -> list[float]:
    """Ascending positions, moved as little as possible until they are `least` apart and within the limits.

    The limits give way where there are too many.
    """
    moved: list[float] = []
    for position in positions:
        moved.append(max(position, moved[-1] + least if moved else limits[0] + least / 2))
    highest = limits[1] - least / 2
    for place in range(len(moved) - 1, -1, -1):
        moved[place] = min(moved[place], highest)
        highest = moved[place] - least
    return moved


def heated(key: KeySlice) -> Picture:
    """A key slice with its heatmap: uint8 [H, W, 3]."""
    grey = np.repeat(key.image[..., None], 3, axis=2)
    if key.heatmap is None:
        return grey
    share = np.asarray(key.heatmap, np.float32)
    colours = colormaps[HEAT_COLOURS](np.arange(256))[:, :3].astype(np.float32) * 255
    alpha = (OPACITY * share)[..., None]
    mixed = grey * (1 - alpha) + colours[(share * 255).astype(np.uint8)] * alpha
    return mixed.astype(np.uint8)


def square_pixels(image: Picture, spacing_mm: tuple[float, float], least: int = 0) -> Picture:
    """An image in true proportions: unchanged if its pixels are square, else the longer side is resampled.

    An image narrower than `least` is enlarged by a whole factor.
    """
    height, width = image.shape[:2]
    row_mm, column_mm = spacing_mm
    smaller = min(row_mm, column_mm)
    size = round(width * column_mm / smaller), round(height * row_mm / smaller)
    if size != (width, height):
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    factor = max(1, least // image.shape[1])
    return image.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else image


def outlined(
    image: Picture, outlines: Sequence[Outline], spacing_mm: tuple[float, float], least: int = PANEL
) -> Picture:
    """An image in true proportions with thin outlines in it: uint8 [H, W, 3]; without outlines, `square_pixels`."""
    if not outlines:
        return square_pixels(image, spacing_mm)
    shown = square_pixels(image, spacing_mm, least)
    canvas = Image.fromarray(shown).convert("RGB")
    factor = np.array(shown.shape[:2]) / image.shape[:2]
    for outline in outlines:
        points = (outline.points + 0.5) * factor - 0.5  # pixel j reaches from j - 0.5 to j + 0.5
        closed = [(column, row) for row, column in [*points, points[0]]]
        ImageDraw.Draw(canvas).line(closed, fill=COLOURS[outline.kind][1])
    return np.asarray(canvas)


def legend(keys: Sequence[KeySlice]) -> str:
    """What the lines in key slices are; empty if there are none."""
    kinds = {outline.kind for key in keys for outline in key.outlines}
    return ", ".join(f"{name} ({kind})" for kind, (name, _) in COLOURS.items() if kind in kinds)


def png(image: Picture) -> bytes:
    """A PNG of grey or colour."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=3)
    return file.getvalue()


def drawn(figure: Figure) -> Picture:
    """The pixels of a figure: uint8 [H, W, 3]."""
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
