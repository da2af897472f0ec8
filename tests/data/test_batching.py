from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lungtl.data.batching import (
    balanced,
    bucketed,
    inference_chunks,
    number_repeats,
    padding,
    rank_share,
    shuffled,
    split_evenly,
)
from lungtl.settings.errors import UsageError

SEED = 3


def lengths_between(low: int, high: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(low, high + 1, count)


def bucketed_epoch(lengths: NDArray[np.int64], epoch: int, batch_size: int = 8) -> list[list[int]]:
    return bucketed(shuffled(len(lengths), SEED, epoch), lengths, batch_size, SEED, epoch)


def test_padding_by_hand() -> None:
    lengths = np.array([1, 4, 2, 2])
    assert padding([[0, 1], [2, 3]], lengths) == pytest.approx(3 / 12)
    assert padding([[1], [3, 2]], lengths) == 0


@pytest.mark.parametrize(("low", "high"), [(65, 764), (1, 30)], ids=["scans", "crops"])
def test_less_than_a_fifth_of_bucketed_batches_is_padding(low: int, high: int) -> None:
    lengths = lengths_between(low, high, 700)
    assert max(padding(bucketed_epoch(lengths, epoch), lengths) for epoch in range(10)) < 0.2
    assert padding(split_evenly(shuffled(700, SEED, 0), 8), lengths) > 0.35  # without buckets


def test_bucketed_batches_differ_between_epochs_and_are_shuffled() -> None:
    lengths = lengths_between(65, 764, 700)
    epochs = [bucketed_epoch(lengths, epoch) for epoch in range(5)]
    pairs = [{pair for batch in batches for pair in pairwise(sorted(batch))} for batches in epochs]
    together = [len(a & b) / len(a) for i, a in enumerate(pairs) for b in pairs[:i]]
    assert max(together) < 0.1
    means = [np.mean([lengths[batch].mean() for batch in batches[:44]]) for batches in epochs]
    assert np.std(means) < 60  # the first half of an epoch is no shorter or longer: about 13
    assert max(abs(np.mean(means) - lengths.mean()), 0) < 40


def test_the_bags_of_a_single_window_are_batched_differently_too() -> None:
    lengths = lengths_between(65, 764, 64)
    epochs = [frozenset(frozenset(batch) for batch in bucketed_epoch(lengths, epoch)) for epoch in range(10)]
    assert len(set(epochs)) == 10


@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.integers(1, 20), st.integers(0, 100))
def test_every_bag_is_in_one_batch_of_an_epoch(lengths: list[int], batch_size: int, epoch: int) -> None:
    order = shuffled(len(lengths), SEED, epoch)
    for batches in (split_evenly(order, batch_size), bucketed(order, np.array(lengths), batch_size, SEED, epoch)):
        assert sorted(bag for batch in batches for bag in batch) == list(range(len(lengths)))
        assert max(map(len, batches)) <= batch_size


@given(st.integers(1, 300), st.integers(1, 20))
def test_parts_are_few_and_of_equal_size(count: int, most: int) -> None:
    sizes = [len(piece) for piece in split_evenly(np.arange(count), most)]
    assert len(sizes) == -(-count // most)
    assert max(sizes) - min(sizes) <= 1


def test_the_order_follows_from_seed_and_epoch() -> None:
    assert shuffled(50, 1, 2).tolist() == shuffled(50, 1, 2).tolist()
    orders = {tuple(shuffled(50, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_all_bags_are_equally_likely_at_each_position() -> None:
    first = [int(shuffled(5, SEED, epoch)[0]) for epoch in range(1000)]
    assert all(150 <= first.count(bag) <= 250 for bag in range(5))  # 200 expected, standard deviation 12.6


def test_balanced_classes_are_equally_frequent() -> None:
    labels = [0] * 90 + [1] * 10
    epochs = [balanced(labels, SEED, epoch) for epoch in range(50)]
    assert {len(order) for order in epochs} == {100}
    drawn = np.concatenate(epochs)
    positive = np.mean(drawn >= 90)
    assert positive == pytest.approx(0.5, abs=0.03)  # standard deviation 0.007
    # within a class each bag as likely: 250 and 27.8 of 5000 expected, standard deviations 15.4 and 5.3
    counts = np.bincount(drawn, minlength=100)
    assert counts[90:].min() > 190
    assert counts[:90].min() > 5
    assert counts[:90].max() < 60


def test_balanced_draws_follow_from_seed_and_epoch() -> None:
    labels = [0, 1, 1, 1, 0, 1] * 5
    assert balanced(labels, 1, 2).tolist() == balanced(labels, 1, 2).tolist()
    assert len({tuple(balanced(labels, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_balancing_one_class_draws_from_it() -> None:
    assert set(balanced([1, 1, 1], 0, 0)) <= {0, 1, 2}


def test_repeated_bags_get_new_numbers() -> None:
    assert number_repeats([[0, 2], [2, 1, 2], [0]], 3) == [[0, 2], [5, 1, 8], [3]]


@given(st.integers(2, 5), st.integers(5, 60), st.integers(5, 12))
def test_the_shares_of_all_processes_are_the_batches(processes: int, count: int, batch_size: int) -> None:
    batches = [batch for batch in split_evenly(shuffled(count, SEED, 0), batch_size) if len(batch) >= processes]
    shares = [rank_share(batches, rank, processes) for rank in range(processes)]
    for batch, *own in zip(batches, *shares, strict=True):
        assert sorted(bag for part in own for bag in part) == sorted(batch)
        assert max(map(len, own)) - min(map(len, own)) <= 1


def test_a_batch_smaller_than_the_number_of_processes_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a batch of 2 cases cannot be shared by 3 processes.*trainer\.devices=2"):
        rank_share([[0, 1, 2], [3, 4]], 0, 3)


def test_inference_chunks_by_hand() -> None:
    assert inference_chunks([3, 4, 5, 20, 1, 1, 1], most_bags=2, most_slices=10) == [[0, 1], [2], [3], [4, 5], [6]]
    assert inference_chunks([], 2, 10) == []


@given(st.lists(st.integers(1, 30), max_size=50), st.integers(1, 8), st.integers(1, 40))
def test_inference_chunks_keep_order_and_limits(lengths: list[int], most_bags: int, most_slices: int) -> None:
    found = inference_chunks(lengths, most_bags, most_slices)
    assert [bag for load in found for bag in load] == list(range(len(lengths)))
    for load in found:
        assert len(load) <= most_bags
        assert len(load) == 1 or sum(lengths[bag] for bag in load) <= most_slices
    for load, following in pairwise(found):  # none could be longer
        total = sum(lengths[bag] for bag in load) + lengths[following[0]]
        assert len(load) == most_bags or total > most_slices
