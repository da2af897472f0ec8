"""Assign bags to the batches of an epoch, from the run's seed and the epoch alone: the same when resumed or shared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import UsageError

# Measured with 8 bags per batch, from crops of 1 to 30 slices to scans of 65 to 764: less than a fifth is padding, and
# 1 in 20 pairs of bags that share a batch does so again in the next epoch (700 bags; more often with fewer bags).
WINDOW, NOISE = 16, 0.3
TOLERATED = 0.2  # fraction of padding above which `trainer.bucket=auto` groups bags of similar length


def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """All bags in random order: int64 [count]."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def balanced(labels: Sequence[int], seed: int, epoch: int) -> NDArray[np.int64]:
    """As many bags as there are labels, drawn with replacement, all classes equally likely: int64 [len(labels)]."""
    known = np.asarray(labels)
    _, classes, sizes = np.unique(known, return_inverse=True, return_counts=True)
    probabilities = 1 / (len(sizes) * sizes[classes])
    return np.random.default_rng([seed, epoch]).choice(len(known), size=len(known), p=probabilities)


def bucketed(
    order: NDArray[np.int64], lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Batches of bags of similar length, to reduce padding.

    The shuffled order is split into windows of 16 batches. Each window is sorted by length, with up to 30 % noise, and
    split into batches, which are then shuffled.
    """
    random = np.random.default_rng([seed, epoch, 1])  # another stream than that of the order
    noisy = lengths * random.uniform(1, 1 + NOISE, len(lengths))
    batches = [
        batch
        for window in split_evenly(order, WINDOW * batch_size)
        for batch in split_evenly(np.array(window)[np.argsort(noisy[window], kind="stable")], batch_size)
    ]
    return [batches[i] for i in random.permutation(len(batches))]


def padding(batches: Sequence[Sequence[int]], lengths: NDArray[np.int64]) -> float:
    """Fraction of padding if the bags of each batch are padded to its longest."""
    padded = sum(len(batch) * int(lengths[list(batch)].max()) for batch in batches)
    return 1 - sum(int(lengths[list(batch)].sum()) for batch in batches) / padded


def number_repeats(batches: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """Add `count` to the index of a bag for each earlier occurrence in the epoch: see `BagDataset`."""
    earlier = [0] * count
    numbered: list[list[int]] = []
    for batch in batches:
        numbered.append([])
        for bag in batch:
            numbered[-1].append(bag + count * earlier[bag])
            earlier[bag] += 1
    return numbered


def split_evenly(order: NDArray[np.int64], most: int) -> list[list[int]]:
    """Split an order into as few parts of at most `most` as possible, of nearly equal size: no tiny last batch."""
    return [part.tolist() for part in np.array_split(order, -(-len(order) // most))] if len(order) else []


def rank_share(batches: Sequence[Sequence[int]], rank: int, processes: int) -> list[list[int]]:
    """The bags of each batch that the process `rank` handles; raises UsageError if a batch has too few bags."""
    smallest = min((len(batch) for batch in batches), default=processes)
    if smallest < processes:
        raise UsageError(
            f"a batch of {smallest} cases cannot be shared by {processes} processes; increase trainer.batch_size or "
            f"set trainer.devices={smallest}"
        )
    return [list(batch[rank::processes]) for batch in batches]


def inference_chunks(lengths: Sequence[int], most_bags: int, most_slices: int) -> list[list[int]]:
    """Group consecutive bags up to both limits; a bag with more slices is a chunk of its own."""
    chunks: list[list[int]] = []
    room = 0
    for bag, length in enumerate(lengths):
        if not chunks or len(chunks[-1]) == most_bags or length > room:
            chunks.append([])
            room = most_slices
        chunks[-1].append(bag)
        room -= length
    return chunks
