"""The page as pictures, for viewers that show no HTML: report.png, and the frames of a DICOM secondary capture."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from lungtl.predict.pictures import DPI, INCHES, PANEL, WIDTH, Picture, drawn, heated, legend, outlined
from lungtl.predict.result import KeySlice, SeriesResult

COLUMNS = 4
LINE = 130
"""Characters of a line of text over the whole width."""


def sheets(result: SeriesResult, lines: Sequence[str], pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    """Two pictures of one width.

    Args:
        result: of one series or nodule.
        lines: of text; the first is the title.
        pictures: below the text on the first sheet, each as wide as a sheet.

    Returns:
        uint8 [H, W, 3] each: text and pictures; the key slices.
    """
    first = np.concatenate([_text(lines), *pictures])
    return first, _key_slices(result)


def padded(pictures: Sequence[Picture]) -> tuple[Picture, ...]:
    """Pictures of one width, white below where one is shorter than the longest."""
    height = max(map(len, pictures))
    return tuple(np.pad(each, ((0, height - len(each)), (0, 0), (0, 0)), constant_values=255) for each in pictures)


def _text(lines: Sequence[str]) -> Picture:
    wrapped = [part for line in lines[1:] for part in textwrap.wrap(line, LINE)]
    height = 0.6 + 0.23 * len(wrapped)
    figure = Figure(figsize=(INCHES, height), dpi=DPI)
    figure.text(0.02, 1 - 0.15 / height, lines[0], fontsize=16, fontweight="bold", va="top")
    for number, line in enumerate(wrapped):
        figure.text(0.02, 1 - (0.55 + 0.23 * number) / height, line, fontsize=11, va="top")
    return drawn(figure)


def _key_slices(result: SeriesResult) -> Picture:
    """The key slices in native pixels, each without and with its heatmap; two pairs in a row."""
    heat = any(key.heatmap is not None for key in result.key_slices)
    tiles: list[tuple[Picture, str]] = []
    spacing_mm = result.series.pixel_spacing_mm
    for key in result.key_slices:
        tiles.append((outlined(key.image, key.outlines, spacing_mm), caption(key)))
        if heat:
            tiles.append((outlined(heated(key), key.outlines, spacing_mm), f"{key.rank}: Grad-CAM"))
    rows = -(-len(tiles) // COLUMNS)
    margin, text = (WIDTH - COLUMNS * PANEL) // (COLUMNS + 1), 40
    top = 70
    height = top + rows * (PANEL + text)
    figure = Figure(figsize=(INCHES, height / DPI), dpi=DPI)
    which = "Slices at equal distances" if result.equal_weights else "The slices that weighed most"
    title = f"{which}, in the lung window"
    figure.text(0.02, 1 - 18 / height, f"{title}{', without and with Grad-CAM' if heat else ''}", fontsize=14,
                fontweight="bold", va="top")  # fmt: skip
    if lines := legend(result.key_slices):
        figure.text(0.02, 1 - 54 / height, f"Lines: {lines}", fontsize=9.5, va="top")
    places = []
    for number, (_, words) in enumerate(tiles):
        row, column = divmod(number, COLUMNS)
        x, y = margin + column * (PANEL + margin), top + text + row * (PANEL + text)
        figure.text(x / WIDTH, 1 - (y - 8) / height, words, fontsize=9.5, va="bottom")
        places.append((x, y))
    sheet = drawn(figure)
    for (image, _), (x, y) in zip(tiles, places, strict=True):
        panel = _fitted(image)
        down, right = (PANEL - panel.shape[0]) // 2, (PANEL - panel.shape[1]) // 2
        sheet[y + down : y + down + panel.shape[0], x + right : x + right + panel.shape[1]] = panel
    return sheet


def _fitted(image: Picture) -> Picture:
    """An image in colour that fits into a panel; of 512 pixels and whole fractions of it, the pixels as they are."""
    image = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    longer = max(image.shape[:2])
    if longer <= PANEL:
        factor = PANEL // longer
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    size = round(image.shape[1] * PANEL / longer), round(image.shape[0] * PANEL / longer)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def caption(key: KeySlice) -> str:
    """'1: z -212.5 mm, instance 45, weight 3.1 %'."""
    number = "" if key.instance_number is None else f", instance {key.instance_number}"
    return f"{key.rank}: z {key.z_mm:g} mm{number}, weight {100 * key.weight:.2g} %"
