"""The outlines that the readers of LIDC-IDRI drew, on the slices of a case and in the pixels of these slices.

In LIDC-IDRI's XML an outline consists of the first pixels outside the nodule, or of those around a part that the reader
excluded. They are kept as they were drawn, one by one: there is no consensus.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lungtl.sources.ct.series import Series
from lungtl.sources.ct.volume_file import VolumeSlice
from lungtl.sources.lidc_database import Contour, Scan, read_scans, series_uids
from lungtl.sources.lidc_nodules import Nodule, cluster_nodules

MATRIX = 512  # rows and columns of every slice of LIDC-IDRI
SAME_POSITION_MM = 0.01  # of a slice, in its header and in the database
SAME_SPACING_MM = 1e-3
LEAST_POINTS = 2  # a single one says where something is, not how far it reaches

Row = dict[str, Any]
"""A row of `outlines.parquet` after the case's id.

Attributes:
    nodule: its number in the scan.
    reader: who drew it, 0 to 3; numbered anew for each nodule, since the readers are anonymous.
    hole: whether it surrounds a part that is excluded from the nodule.
    first, last: the slices of the case that it is on.
    rows, columns: its points in the pixels of the case's slices, whose centres are whole numbers.
"""


class Placement(NamedTuple):
    """Where the original slices' pixels are in other slices: scale * (row, column) + shift."""

    scale: NDArray[np.float64]
    shift: NDArray[np.float64]

    @classmethod
    def of(cls, series: Series) -> Placement:
        """In a series as published; the axes of a volume file may have been turned when it was read."""
        first = series.files[0]
        scale = np.ones(2)
        if isinstance(first, VolumeSlice):
            scale = np.sign([first.stored.direction[axis][axis] for axis in (1, 0)])
        return cls(scale, np.where(scale < 0, np.array(series.shape) - 1.0, 0.0))

    def cropped(self, top: int, left: int) -> Placement:
        """In slices of which only the part below and right of a pixel is left."""
        return self._replace(shift=self.shift - (top, left))

    def __call__(self, points: NDArray[Any]) -> NDArray[np.float64]:
        """Place points, [..., 2] (row, column)."""
        placed: NDArray[np.float64] = points * self.scale + self.shift
        return placed


def outline_rows(
    series: Series,
    scan: Scan,
    nodules: Iterable[Nodule],
    z_mm: NDArray[np.float64],
    placement: Placement,
    start: int = 0,
) -> list[Row]:
    """The outlines on slices of a series: those on the nearest native slice.

    Halfway between two native slices they are those of the one on which the reader has some, the lower one if of both.

    Args:
        series: of the slices.
        scan: LIDC-IDRI's.
        nodules: of the scan.
        z_mm: float64 [S], ascending, of the slices.
        placement: of the original slices' pixels in these slices.
        start: number of the first slice.

    Returns:
        No rows if positions or pixels of the series are not those of LIDC-IDRI. Single points, and outlines that leave
        the original slices, are omitted.
    """
    shifts_mm = np.abs(series.z_mm[:, None] - scan.z_mm).min(axis=1)
    spacing_mm = np.abs(placement.scale) * series.pixel_spacing_mm
    if shifts_mm.max() > SAME_POSITION_MM or np.abs(spacing_mm - scan.pixel_spacing_mm).max() > SAME_SPACING_MM:
        return []
    reach = np.abs(scan.z_mm[:, None] - z_mm).min(axis=0) + 2 * SAME_POSITION_MM  # to the nearest native slice
    rows = []
    for nodule in nodules:
        for reader, annotation in enumerate(nodule.annotations):
            drawn = np.unique([contour.z_mm for contour in annotation.contours])
            near = np.abs(drawn[:, None] - z_mm) <= reach
            shown = np.where(near.any(axis=0), drawn[near.argmax(axis=0)], np.nan)  # the lowest that is near
            for contour in filter(_encloses, annotation.contours):
                slices = np.flatnonzero(shown == contour.z_mm)
                if len(slices):
                    placed = placement(contour.points).round(2)
                    rows.append(
                        {"nodule": nodule.number, "reader": reader, "hole": not contour.inclusion,
                         "first": start + int(slices[0]), "last": start + int(slices[-1]),
                         "rows": placed[:, 0].tolist(), "columns": placed[:, 1].tolist()}
                    )  # fmt: skip
    return rows


def native_outlines(series: Series) -> list[Row]:
    """The outlines on the native slices of a series, in its pixels; none unless it is one of LIDC-IDRI."""
    if series.uid not in series_uids():
        return []
    scan, nodules = _read(series.uid)
    return outline_rows(series, scan, nodules, series.z_mm, Placement.of(series))


@lru_cache(maxsize=1)
def _read(uid: str) -> tuple[Scan, list[Nodule]]:
    (scan,) = read_scans([uid])
    return scan, cluster_nodules(scan)


def _encloses(contour: Contour) -> bool:
    """Whether an outline can be drawn."""
    inside = contour.points.min() >= 0 and contour.points.max() < MATRIX
    return inside and len(np.unique(contour.points, axis=0)) >= LEAST_POINTS
