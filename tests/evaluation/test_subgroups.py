from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungtl.evaluation.delong import auroc_interval
from lungtl.evaluation.subgroups import score_subgroups, subgroups
from lungtl.settings.errors import LungtlError
from tests.evaluation.cohort import cohort

NAN = float("nan")


def levels(table: pd.DataFrame, group: str) -> list[Any]:
    return [None if pd.isna(level) else level for level in table[group]]


def rows_of(*arguments: Any) -> list[dict[str, Any]]:
    return [asdict(row) for row in score_subgroups(*arguments)]


def test_diameters_are_cut_where_lung_rads_cuts_them() -> None:
    bags = pd.DataFrame({"diameter_mm": [0, 0.5, 5.999, 6, 7.999, 8, 14.999, 15, 40, NAN]})
    small, six, eight, large = "< 6 mm", "6 to < 8 mm", "8 to < 15 mm", ">= 15 mm"
    found = levels(subgroups(bags), "diameter")
    assert found == ["no nodule", small, small, six, six, eight, eight, large, large, None]


def test_spacings_are_cut_after_the_rounding_of_positions() -> None:
    bags = pd.DataFrame({"native_spacing_mm": [0.45, 1.25, 1.2500305, 1.26, 2.0, 1.9999695, 2.5, NAN]})
    thin, middle, thick = "<= 1.25 mm", "1.25 to 2 mm", "> 2 mm"
    assert levels(subgroups(bags), "slice_spacing") == [thin, thin, thin, middle, middle, middle, thick, None]


def test_unknown_values_make_no_group() -> None:
    bags = pd.DataFrame({"bag_id": ["x", "y"], "diameter_mm": [NAN, NAN], "manufacturer": ["", "GE"]})
    found = subgroups(bags)
    assert list(found) == ["manufacturer"]
    assert levels(found, "manufacturer") == [None, "GE"]
    assert subgroups(bags[["bag_id"]]).shape == (2, 0)


def test_readers_are_those_of_the_largest_nodule_that_counts() -> None:
    bags = pd.DataFrame({"bag_id": ["a", "b", "c", "d", "e"]}, index=[7, 3, 5, 1, 0])
    nodules = pd.DataFrame(
        [
            ("a", 5.0, 4, "1 1 1 1", True),
            ("a", 9.0, 2, "3 4", True),
            ("a", 30.0, 1, "5", False),  # left out of the labels
            ("b", 9.0, 1, "3", True),
            ("c", 4.0, 6, "2 2 5 1 2 2", True),
            ("d", 4.0, 3, "2 2 2", False),
            ("e", 7.0, 3, "2 2 2", True),
        ],
        columns=["bag_id", "diameter_mm", "n_readers", "ratings", "counted"],
    )
    found = subgroups(bags, nodules)
    assert list(found.index) == [7, 3, 5, 1, 0]
    assert levels(found, "readers") == ["2", "1", "4 or more", None, "3"]
    assert levels(found, "reader_agreement") == ["1 apart", None, "2 or more apart", None, "same rating"]
    # Sources that leave nothing out have no such column.
    assert levels(subgroups(bags, nodules.drop(columns="counted")), "readers") == ["1", "1", "4 or more", "3", "3"]


def test_levels_come_in_their_order_with_the_auroc_of_their_bags() -> None:
    data = cohort(n=120, patients=80)  # no nodule below 6 mm is malignant
    groups = subgroups(pd.DataFrame({"diameter_mm": data.diameter_mm}))
    found = rows_of(data.labels, data.probabilities, data.patient_ids, groups)
    assert [row["level"] for row in found] == ["< 6 mm", "6 to < 8 mm", "8 to < 15 mm", ">= 15 mm"]
    assert sum(row["n"] for row in found) == 120
    ids = np.array(data.patient_ids)
    for row, (low, high) in zip(found, [(0, 6), (6, 8), (8, 15), (15, 1e3)], strict=True):
        own = (data.diameter_mm >= low) & (data.diameter_mm < high)
        expected = auroc_interval(data.labels[own], data.probabilities[own], ids[own])
        counts = {"n": own.sum(), "n_positive": data.labels[own].sum(), "n_patients": len(set(ids[own]))}
        assert {name: row[name] for name in counts} == counts
        auroc = (row["auroc"], row["low"], row["high"])
        assert auroc == pytest.approx((expected.value, expected.low, expected.high), abs=1e-12)
        assert (row["group"], row["undefined"]) == ("diameter", expected.undefined)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_small_and_one_class_levels_give_the_reason() -> None:
    labels = [0, 1] * 4 + [0] + [1] * 10 + [0, 1] * 5
    groups = pd.DataFrame({"site": ["a"] * 9 + ["b"] * 10 + ["c"] * 10})
    small, alike, whole = rows_of(labels, np.linspace(0, 1, 29), range(29), groups)
    assert (small["n"], small["n_positive"], small["auroc"], small["undefined"]) == (
        9,
        4,
        None,
        "9 cases, fewer than 10",
    )
    assert (alike["auroc"], alike["undefined"]) == (None, "only one class: 10 of 10 positive")
    assert whole["auroc"] == pytest.approx(15 / 25)
    assert whole["undefined"] is None


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", None]), min_size=60, max_size=60), st.randoms(use_true_random=False))
def test_a_group_of_all_bags_matches_all_and_order_does_not_matter(sites: list[str | None], random: Any) -> None:
    data = cohort()
    groups = pd.DataFrame({"all": "yes", "site": sites})
    found = rows_of(data.labels, data.probabilities, data.patient_ids, groups)
    assert found[0]["auroc"] == pytest.approx(auroc_interval(data.labels, data.probabilities, data.patient_ids).value)
    assert sum(row["n"] for row in found[1:]) == 60 - sites.count(None)
    order = random.sample(range(60), 60)
    ids = [data.patient_ids[k] for k in order]
    again = rows_of(data.labels[order], data.probabilities[order], ids, groups.iloc[order])
    assert [row["level"] for row in again] == [row["level"] for row in found]
    for row, same in zip(found, again, strict=True):
        assert (
            same == pytest.approx(row, abs=1e-12) if row["auroc"] is None else same["low"] == pytest.approx(row["low"])
        )


def test_groups_of_wrong_length_are_refused() -> None:
    with pytest.raises(LungtlError, match="groups for 1 cases, labels for 2"):
        score_subgroups([0, 1], [0.1, 0.9], "ab", pd.DataFrame({"site": ["a"]}))
