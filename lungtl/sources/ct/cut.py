"""Cut the surroundings of a point out of a series: native pixels, 1 mm slices of the series' own grid."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import Refused
from lungtl.sources.ct.series import Series
from lungtl.sources.ct.volume import Volume, interpolate_z, read_volume, regular_grid

ROUNDING = 1e-6
FIELD_MM = 80.0  # default side of the squares: room for image.crop_mm=64 and for shifts
DEPTH_MM = 10.0  # default length along z of a nodule whose diameter is unknown


def locate(series: Series, position_mm: tuple[float, float, float]) -> tuple[float, float]:
    """The (row, column) of a point, as fractional indices of pixel centres.

    Args:
        series: axial.
        position_mm: x, y, z in DICOM's patient coordinates (LPS), like ImagePositionPatient.

    Raises:
        Refused: the point is outside the volume.
    """
    nearest = series.files[int(np.abs(series.z_mm - position_mm[2]).argmin())]
    offset = np.array(position_mm) - nearest.position_mm
    along_row, along_column = np.array(nearest.orientation).reshape(2, 3)
    row_mm, column_mm = series.pixel_spacing_mm
    row, column = float(offset @ along_column) / row_mm, float(offset @ along_row) / column_mm
    rows, columns = series.shape
    z = series.z_mm
    margin = series.native_spacing_mm / 2
    shown = f"the point ({', '.join(f'{value:g}' for value in position_mm)}) mm is outside the volume"
    remedy = "check that it is of this series, and x, y, z are DICOM patient coordinates (LPS) in mm"
    if not (-0.5 <= row <= rows - 0.5 and -0.5 <= column <= columns - 0.5):
        raise Refused(f"{shown}: row {row:.1f} of {rows}, column {column:.1f} of {columns}", remedy)
    if not z[0] - margin <= position_mm[2] <= z[-1] + margin:
        raise Refused(f"{shown}: its slices are at z = {z[0]:g} to {z[-1]:g} mm", remedy)
    return row, column


def covered_z(series: Series, low_mm: float, high_mm: float) -> NDArray[np.float64]:
    """Positions of the 1 mm slices from `low_mm` to `high_mm`, or of the one nearest to their middle: float64 [S]."""
    grid = regular_grid(series.z_mm)
    covered = grid[(grid >= low_mm - ROUNDING) & (grid <= high_mm + ROUNDING)]
    return covered if len(covered) else grid[[np.abs(grid - (low_mm + high_mm) / 2).argmin()]]


def cut_nodule(
    series: Series,
    position_mm: tuple[float, float, float],
    diameter_mm: float,
    field_mm: float,
    depth_mm: float,
    native: Volume | None = None,
) -> Volume:
    """Cut out a nodule: the square around its position, on the 1 mm slices within its diameter.

    Args:
        series: is not checked for gaps.
        position_mm: x, y, z in DICOM's patient coordinates (LPS).
        diameter_mm: NaN if unknown.
        field_mm: side of the square.
        depth_mm: length along z of a nodule whose diameter is unknown.
        native: see `cut_out`.

    Raises:
        Refused: the position is outside the volume, or a slice cannot be read.
    """
    row, column = locate(series, position_mm)
    z, half = position_mm[2], (diameter_mm if diameter_mm > 0 else depth_mm) / 2
    z_mm = covered_z(series, z - half, z + half)
    hu = cut_out(series, row, column, z_mm, field_mm, native)
    return Volume(hu, z_mm, series.pixel_spacing_mm)


def cut_out(
    series: Series,
    row: float,
    column: float,
    z_mm: NDArray[np.float64],
    field_mm: float,
    native: Volume | None = None,
) -> NDArray[np.int16]:
    """HU of the square of `field_mm` around a point, on some of the series' 1 mm slices; raises Refused.

    The square has whole native pixels, rounded up; the point is within half a pixel of its centre. Outside the slices
    the pixels at their edge are repeated. Only the native slices that are required are read.

    Args:
        series: is not checked for gaps.
        row: of the centre, as a fractional index of pixel centres.
        column: likewise.
        z_mm: [S], ascending, of `regular_grid`.
        field_mm: side of the square.
        native: all slices of the series, if they have been read already.

    Returns:
        int16 [S, rows, columns].
    """
    native_z = series.z_mm
    first = max(0, int(np.searchsorted(native_z, z_mm[0] + ROUNDING, side="right")) - 1)
    last = min(len(native_z) - 1, int(np.searchsorted(native_z, z_mm[-1] - ROUNDING)))
    if first == last:  # interpolation requires two
        first, last = (first - 1, last) if last == len(native_z) - 1 else (first, last + 1)
    used = slice(first, last + 1)
    volume = (
        read_volume(replace(series, files=series.files[used]))
        if native is None
        else Volume(native.hu[used], native.z_mm[used], native.pixel_spacing_mm)
    )
    rows, columns = (
        np.clip(np.arange(start, start + _count(field_mm, spacing)), 0, n - 1)
        for start, spacing, n in zip(
            corner(series, row, column, field_mm), series.pixel_spacing_mm, series.shape, strict=True
        )
    )
    hu = volume.hu[:, rows[:, None], columns]
    return interpolate_z(Volume(hu, volume.z_mm, volume.pixel_spacing_mm), z_mm).hu


def corner(series: Series, row: float, column: float, field_mm: float) -> tuple[int, int]:
    """The first row and column of the square that `cut_out` cuts out; negative if it exceeds the slices."""
    top, left = (
        math.ceil(centre - _count(field_mm, spacing) / 2 - ROUNDING)
        for centre, spacing in zip((row, column), series.pixel_spacing_mm, strict=True)
    )
    return top, left


def _count(field_mm: float, spacing_mm: float) -> int:
    """Pixels along a side."""
    return math.ceil(field_mm / spacing_mm - ROUNDING)
