"""A model's AUROC by nodule size, slice spacing, scanner and readers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lungtl.evaluation.checks import check_rows
from lungtl.evaluation.delong import auroc_interval
from lungtl.evaluation.document import Subgroup
from lungtl.evaluation.estimate import Estimate
from lungtl.settings.errors import LungtlError

MIN_BAGS = 10
"""Smaller subgroups get no AUROC."""

DIAMETERS = ("no nodule", "< 6 mm", "6 to < 8 mm", "8 to < 15 mm", ">= 15 mm")
"""The cut points of Lung-RADS v2022 for solid nodules; 6 and 8 mm are also the Fleischner Society's of 2017."""

SPACINGS = ("<= 1.25 mm", "1.25 to 2 mm", "> 2 mm")
READERS = ("1", "2", "3", "4 or more")
AGREEMENTS = ("same rating", "1 apart", "2 or more apart")


def subgroups(bags: pd.DataFrame, nodules: pd.DataFrame | None = None) -> pd.DataFrame:
    """Assign bags to groups by what the store knows of them.

    - diameter: of the bag's largest nodule. It is the longest axial one, while Lung-RADS uses the mean of long and
      short, so a level is no Lung-RADS category.
    - slice_spacing: between the scan's own slices, before resampling.
    - manufacturer: of the scanner.
    - readers: how many radiologists marked the bag's largest nodule.
    - reader_agreement: highest minus lowest malignancy rating of that nodule; unknown for a single reader.

    Args:
        bags: rows of `Store.bags`: bag_id and, where available, diameter_mm, native_spacing_mm, manufacturer.
        nodules: `Store.nodules`: bag_id, diameter_mm, n_readers, ratings and, where available, counted.

    Returns:
        One row per bag with the index of `bags`, one column per group that is known for any of them. Columns are
        ordered categories, missing where unknown.
    """
    groups: dict[str, Any] = {}
    if "diameter_mm" in bags:
        diameter = bags["diameter_mm"].to_numpy(dtype=np.float64)
        edges = (-np.inf, np.nextafter(0, 1), 6, 8, 15, np.inf)
        groups["diameter"] = pd.cut(diameter, edges, right=False, labels=DIAMETERS)
    if "native_spacing_mm" in bags:
        spacing = bags["native_spacing_mm"].to_numpy(dtype=np.float64).round(2)  # positions are rounded in the files
        groups["slice_spacing"] = pd.cut(spacing, (-np.inf, 1.25, 2, np.inf), labels=SPACINGS)
    if "manufacturer" in bags:
        groups["manufacturer"] = pd.Categorical(bags["manufacturer"].replace("", None))
    if nodules is not None:
        largest = _largest_nodules(nodules)
        readers = bags["bag_id"].map(largest["n_readers"]).to_numpy(dtype=np.float64)
        groups["readers"] = pd.cut(readers, (0, 1, 2, 3, np.inf), labels=READERS)
        ranges = bags["bag_id"].map(largest["ratings"].map(_rating_range)).to_numpy(dtype=np.float64)
        groups["reader_agreement"] = pd.cut(ranges, (-np.inf, 0, 1, np.inf), labels=AGREEMENTS)
    table = pd.DataFrame(groups, index=bags.index)
    return table.loc[:, table.notna().any()]


def score_subgroups(
    labels: ArrayLike, probabilities: ArrayLike, patient_ids: Iterable[object], groups: pd.DataFrame
) -> list[Subgroup]:
    """Compute the AUROC in each level of each group, with its 95 % interval (`lungtl.evaluation.delong`).

    Each interval is for one level: comparing two of them is no test of a difference, and one of twenty is expected to
    miss its true value.

    Groups have N rows in the same order, as from `subgroups`; a row that is missing in a group counts in none of its
    levels. With fewer than `MIN_BAGS` bags or one class the AUROC is None and `undefined` gives the reason.
    """
    y, p, patients = check_rows(labels, probabilities, patient_ids)
    if len(groups) != len(y):
        raise LungtlError(f"there are groups for {len(groups)} cases, labels for {len(y)}; expected one row per case")
    rows = []
    for name in groups.columns:
        column = groups[name].astype("category")
        for level in column.cat.categories:
            members = (column == level).to_numpy()
            n = int(members.sum())
            if n == 0:
                continue
            if n < MIN_BAGS:
                auroc = Estimate(None, undefined=f"{n} cases, fewer than {MIN_BAGS}")
            else:
                auroc = auroc_interval(y[members], p[members], patients[members])
            counts = (n, int(y[members].sum()), len(np.unique(patients[members])))
            rows.append(Subgroup(str(name), str(level), *counts, auroc.value, auroc.low, auroc.high, auroc.undefined))
    return rows


def _largest_nodules(nodules: pd.DataFrame) -> pd.DataFrame:
    """The row of each bag's largest counted nodule, indexed by bag_id."""
    counted = nodules[nodules["counted"]] if "counted" in nodules else nodules
    return counted.sort_values("diameter_mm", kind="stable").groupby("bag_id").tail(1).set_index("bag_id")


def _rating_range(ratings: str) -> float:
    """Highest minus lowest of ratings such as "3 4 4"; NaN for a single one."""
    values = [int(rating) for rating in ratings.split()]
    return max(values) - min(values) if len(values) > 1 else float("nan")
