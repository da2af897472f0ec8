from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from lungtl.evaluation.localisation import (
    MEASURES,
    RULES,
    centre_prior,
    chance_average_precision,
    localise,
    mixed_bags,
)


def rows(bag_id: str, labels: Sequence[int], weights: Sequence[float]) -> pd.DataFrame:
    return pd.DataFrame({"bag_id": bag_id, "index": range(len(labels)), "label": labels, "weight": weights})


A = rows("a", [0, 2, 0, 0], [0.1, 0.6, 0.2, 0.1])
B = rows("b", [1, 0], [0.25, 0.75])
PATIENTS = {"a": "p0", "b": "p1", "c": "p2", "d": "p3"}


def test_measures_are_averaged_over_bags_hand_computed() -> None:
    found = localise(pd.concat([A, B]), PATIENTS, resamples=0)
    assert found is not None
    assert (found.n, found.n_patients, found.n_slices, found.n_nodule_slices) == (2, 2, 6, 2)
    model, uniform = found.rules["model"], found.rules["uniform"]
    assert model["share"].value == pytest.approx((0.6 + 0.25) / 2)
    assert model["average_precision"].value == pytest.approx((1 + 0.5) / 2)  # first of a, second of b
    assert uniform["share"].value == pytest.approx((1 / 4 + 1 / 2) / 2)
    by_chance = (1 + 1 / 2 + 1 / 3 + 1 / 4) / 4, (1 + 1 / 2) / 2  # the one nodule slice is 1st, 2nd, ... as often
    assert uniform["average_precision"].value == pytest.approx(sum(by_chance) / 2)


@pytest.mark.parametrize(("positive", "n"), [(1, 1), (1, 2), (1, 6), (2, 6), (3, 5), (5, 6), (4, 4)])
def test_chance_average_precision_is_the_mean_over_all_orders(positive: int, n: int) -> None:
    nodule = np.arange(n) < positive
    orders = [average_precision_score(nodule, order) for order in permutations(range(n))]
    assert chance_average_precision(positive, n) == pytest.approx(np.mean(orders))


def test_chance_average_precision_matches_simulated_weights() -> None:
    rng = np.random.default_rng(0)
    nodule = np.arange(60) < 7
    drawn = [average_precision_score(nodule, rng.random(60)) for _ in range(2000)]
    chance = chance_average_precision(7, 60)
    assert np.mean(drawn) == pytest.approx(chance, abs=3 * np.std(drawn) / np.sqrt(2000))
    assert chance > 7 / 60 + 0.03


def test_the_centre_prior_is_a_gaussian_of_a_quarter_of_the_length() -> None:
    prior = centre_prior(range(4))
    near, far = np.exp(-0.5 * 0.5**2), np.exp(-0.5 * 1.5**2)  # half and one and a half slices from the middle
    np.testing.assert_allclose(prior, np.array([far, near, near, far]) / (2 * near + 2 * far))
    assert centre_prior([0]) == [1]
    found = localise(A, PATIENTS, resamples=0)
    assert found is not None
    assert found.rules["centre"]["share"].value == pytest.approx(prior[1])


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=12).filter(
        lambda bag: 0 < sum(nodule for nodule, _ in bag) < len(bag) and len({w for _, w in bag}) > 1
    )
)
@settings(deadline=None)
def test_average_precision_matches_scikit_learn(bag: list[tuple[bool, int]]) -> None:
    nodule, weights = np.array([n for n, _ in bag]), np.array([float(w) for _, w in bag])
    table = rows("a", [2 * int(n) for n in nodule], list(weights / weights.sum()))
    found = localise(table, PATIENTS, resamples=0)
    assert found is not None
    model = found.rules["model"]
    assert model["average_precision"].value == pytest.approx(average_precision_score(nodule, weights))
    assert model["share"].value == pytest.approx(weights[nodule].sum() / weights.sum())


def test_untrained_weights_are_matched_by_slice_not_by_order() -> None:
    untrained = pd.concat([rows("b", [1, 0], [0.4, 0.6]), rows("a", [0, 2, 0, 0], [0.3, 0.2, 0.3, 0.2])]).iloc[::-1]
    found = localise(pd.concat([A, B]), PATIENTS, untrained, resamples=0)
    assert found is not None
    assert tuple(found.rules) == RULES
    assert found.rules["untrained"]["share"].value == pytest.approx((0.4 + 0.2) / 2)


def test_several_draws_of_the_untrained_aggregator_are_averaged() -> None:
    untrained = B[["bag_id", "index"]].assign(weight_0=[0.4, 0.6], weight_1=[0.9, 0.1], weight_2=[0.8, 0.2])
    found = localise(B, PATIENTS, untrained, resamples=0)
    assert found is not None
    measures = found.rules["untrained"]
    assert measures["share"].value == pytest.approx((0.4 + 0.9 + 0.8) / 3)
    assert measures["average_precision"].value == pytest.approx((0.5 + 1 + 1) / 3)  # not that of their mean weights
    assert found.gains["untrained"]["share"].value == pytest.approx(0.25 - 0.7)


def test_the_model_is_compared_with_rules_on_the_same_draws() -> None:
    bags = [
        (f"p{i}", rows(f"p{i}", [2, 0], [weight, 1 - weight]), rows(f"p{i}", [2, 0], [weight - 0.1, 1.1 - weight]))
        for i, weight in enumerate((0.2, 0.6, 0.9))
    ]
    table, untrained = pd.concat([own for _, own, _ in bags]), pd.concat([other for _, _, other in bags])
    found = localise(table, {name: name for name, _, _ in bags}, untrained, resamples=200)
    assert found is not None
    assert tuple(found.gains) == ("centre", "untrained")
    # 0.1 more in every bag, however much the bags differ: on draws of its own either mean would vary
    share = found.gains["untrained"]["share"]
    assert (share.value, share.low, share.high) == pytest.approx((0.1, 0.1, 0.1))
    model, centre = found.rules["model"]["share"], found.gains["centre"]["share"]  # the centre's is 1/2 of two slices
    assert (centre.value, centre.low, centre.high) == pytest.approx(
        tuple(end - 0.5 for end in (model.value, model.low, model.high) if end is not None)
    )


def test_only_fully_labelled_bags_with_both_kinds_of_slices_count(caplog: pytest.LogCaptureFixture) -> None:
    none = rows("c", [0, 0], [0.5, 0.5])
    unknown = rows("d", [2, 0, -1], [0.2, 0.2, 0.6])
    everywhere = rows("e", [2, 1], [0.9, 0.1])
    table = pd.concat([none, unknown, everywhere, B])
    assert mixed_bags(table) == ["b"]
    alone, among = localise(B, PATIENTS), localise(table, PATIENTS)
    assert alone == among
    with caplog.at_level(logging.INFO):
        assert localise(pd.concat([none, unknown, everywhere]), PATIENTS) is None
    assert "no scan has labelled slices" in caplog.text


def test_equal_weights_are_not_compared(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert localise(A.assign(weight=0.25), PATIENTS) is None
    assert "weights all slices equally" in caplog.text


def test_the_interval_resamples_patients() -> None:
    bags = [
        rows(f"{patient}-{copy}", [2, 0], [weight, 1 - weight])
        for patient, weight in (("p0", 0.2), ("p1", 0.6), ("p2", 0.9))
        for copy in range(2)
    ]
    table = pd.concat(bags)
    found = localise(table, {str(bag): str(bag)[:2] for bag in table["bag_id"]}, resamples=2000)
    assert found is not None
    share = found.rules["model"]["share"]
    # three patients: the extreme replicates, all of p0 or all of p2, have probability 1/27 each, more than 2.5 %
    assert share.value == pytest.approx(np.mean([0.2, 0.6, 0.9]))
    assert (share.low, share.high) == pytest.approx((0.2, 0.9))


def test_one_patient_has_no_interval() -> None:
    found = localise(A, PATIENTS)
    assert found is not None
    for name in MEASURES:
        assert found.rules["model"][name].undefined == "no interval: only one patient"
