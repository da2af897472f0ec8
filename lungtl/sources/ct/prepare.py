"""Prepare a series for a model: check gaps, read HU, crop if requested, resample to 1 mm slices."""

from __future__ import annotations

from typing import Any, Literal

from lungtl.sources.ct.lungs import crop_to_lungs, lung_area
from lungtl.sources.ct.series import Series, check_gap
from lungtl.sources.ct.units import hu_details
from lungtl.sources.ct.volume import Volume, read_volume, resample_z

Crop = Literal["none", "lungs"]
MAX_GAP_MM = 10.0  # between neighbouring slices


def prepare_series(
    series: Series, max_gap_mm: float = MAX_GAP_MM, crop: Crop = "none"
) -> tuple[Volume, dict[str, Any]]:
    """Read a series the way datasets and `lungtl.predict` use it; raises Refused.

    Returns:
        The volume, and its columns of `bags.parquet`: n_native_slices, native_spacing_mm, largest_gap_mm,
        slice_thickness_mm, manufacturer, kernel, contrast, crop_top and crop_left (first row and column of the crop,
        0 without one), lungs_cm2 (see `lung_area`, before the crop), rescale_type (US if any slice has it) and those of
        `hu_details`.
    """
    check_gap(series, max_gap_mm)
    volume = read_volume(series)
    lungs_cm2, top, left = lung_area(volume), 0, 0
    if crop == "lungs":  # before resampling, which is then faster
        volume, box = crop_to_lungs(volume)
        top, left = box.top, box.left
    details = {**series_details(series), **hu_details(volume.hu), "crop_top": top, "crop_left": left,
               "lungs_cm2": lungs_cm2}  # fmt: skip
    return resample_z(volume), details


def series_details(series: Series) -> dict[str, Any]:
    """Columns of `bags.parquet` that describe the series as it was acquired."""
    return {
        "n_native_slices": len(series.files),
        "native_spacing_mm": series.native_spacing_mm,
        "largest_gap_mm": series.largest_gap_mm,
        "slice_thickness_mm": series.files[0].slice_thickness_mm,
        "manufacturer": series.files[0].manufacturer,
        "kernel": series.files[0].kernel,
        "contrast": max(file.contrast for file in series.files),
        "rescale_type": max(file.rescale_type for file in series.files),
    }
