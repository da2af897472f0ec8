"""Lines around nodules in pictures of slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungtl.evaluation.figures.canvas import SKY, YELLOW

READER = "a radiologist's outline of the nodule"
HOLE = "a part that the radiologist excluded"
CIRCLE = "circle: the nodule's diameter around its position"
COLOURS = {READER: ("blue", SKY), HOLE: ("yellow", YELLOW), CIRCLE: ("blue", SKY)}


@dataclass(frozen=True, eq=False)
class Outline:
    """A closed line in a slice."""

    points: NDArray[np.float64]  # float [N, 2], (row, column) in pixels, whose centres are whole numbers
    kind: str  # of COLOURS


def on_slice(
    rows: Sequence[Mapping[str, Any]], index: int, corner: tuple[int, int], shape: tuple[int, int]
) -> list[Outline]:
    """The readers' outlines on a slice, as far as they are in a part of it.

    Args:
        rows: of a case: see `lidc_outlines.Row`.
        index: of the slice.
        corner: the first (row, column) of the part.
        shape: its (rows, columns).
    """
    drawn = [
        Outline(np.column_stack([row["rows"], row["columns"]]) - corner, HOLE if row["hole"] else READER)
        for row in rows
        if row["first"] <= index <= row["last"]
    ]
    return [each for each in drawn if (each.points.max(axis=0) >= 0).all() and (each.points.min(axis=0) < shape).all()]


def circle(row: float, column: float, diameter_mm: float, spacing_mm: tuple[float, float]) -> list[Outline]:
    """A circle around a point, in pixels that need not be square; none if diameter or spacing are unknown."""
    if not (np.isfinite([*spacing_mm, diameter_mm]).all() and diameter_mm > 0):
        return []
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    directions = np.column_stack([np.sin(angles), np.cos(angles)])
    return [Outline((row, column) + diameter_mm / 2 / np.array(spacing_mm) * directions, CIRCLE)]
