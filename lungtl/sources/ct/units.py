"""Are the values of a CT series Hounsfield units? What the header states, and what the voxels make unlikely."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import Refused
from lungtl.sources.ct.elements import Elements

HU_TYPES = frozenset({"", "HU", "US"})  # US: unspecified
# Codes that may be quoted in messages; other text in this field might be a name.
OTHER_TYPES = frozenset({"OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT", "CNTS", "NONE", "SUV", "BQML", "MG/ML"})
# Metal reaches 30,000 HU, but never fills 5 % of a slice; nothing is below air, except padding.
MAX_HIGH_HU, MIN_MEDIAN_HU, MAX_LOWEST_HU = 4000, -1500, -200
HU_COLUMNS = ("hu_lowest", "hu_median", "hu_high")
SAMPLES = 64  # rows and columns of a slice that are looked at


def rescale_type(elements: Elements) -> str:
    """RescaleType: '' if it is missing, HU or US (unspecified); raises Refused for other units."""
    code = elements.text("RescaleType").upper()
    if code not in HU_TYPES:
        value = code if code in OTHER_TYPES else "of an unknown code"
        raise Refused(f"has RescaleType {value}, expected HU", "use the reconstruction in Hounsfield units")
    return code


def hu_details(hu: NDArray[np.int16]) -> dict[str, float]:
    """Columns of `bags.parquet`, from a sample of int16 [S, H, W].

    hu_lowest is the minimum, hu_median the median of the slices' medians, hu_high the highest 95th percentile of a
    slice.
    """
    row_step, column_step = (max(1, size // SAMPLES) for size in hu.shape[1:])
    values = np.sort(hu[:, ::row_step, ::column_step].reshape(len(hu), -1), axis=1)
    last = values.shape[1] - 1
    found = values[:, 0].min(), np.median(values[:, last // 2]), values[:, int(0.95 * last)].max()
    return {name: float(value) for name, value in zip(HU_COLUMNS, found, strict=True)}


def unit_warnings(scans: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line per kind of doubt about the units, with the first scan, its value and the number of scans.

    Args:
        scans: bag_id, rescale_type and the columns of `hu_details` (NaN or missing if unknown).
    """
    first: dict[str, str] = {}
    count: dict[str, int] = {}
    for scan in scans:
        for kind, text in _doubts(scan).items():
            first.setdefault(kind, f"{scan['bag_id']}: {text}")
            count[kind] = count.get(kind, 0) + 1
    return [text + (f" ({count[kind]} such scans)" if count[kind] > 1 else "") for kind, text in first.items()]


def _doubts(scan: Mapping[str, Any]) -> dict[str, str]:
    lowest, median, high = (float(scan.get(name, np.nan)) for name in HU_COLUMNS)
    doubts = {}
    if scan["rescale_type"] == "US":
        doubts["type"] = "RescaleType is US (unspecified); its values are read as HU"
    if high > MAX_HIGH_HU:
        doubts["high"] = f"5 % of a slice is above {high:g} HU, more than tissue or metal; check its rescale tags"
    if median < MIN_MEDIAN_HU:
        doubts["low"] = f"half of the voxels are below {median:g} HU, less than air; check its rescale tags"
    if lowest > MAX_LOWEST_HU:
        doubts["air"] = f"the lowest value is {lowest:g} HU, but a chest contains air (-1000); check RescaleIntercept"
    return doubts
