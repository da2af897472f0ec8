"""Which bags an epoch's batches hold.

All of it follows from the run's seed and the epoch alone, so that a resumed run, and each of several processes, draws
what one uninterrupted process would have drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import UsageError

# Measured with 8 bags a batch: less than a fifth is padding, from crops of 1 to 30 slices to scans of 65 to 764, and of
# two bags that share a batch in one epoch 1 in 20 pairs does so in the next (700 bags; fewer bags meet more often).
WINDOW, NOISE = 16, 0.3
TOLERATED = 0.2
"""The share of padding from which on `trainer.bucket=auto` puts bags of like length together."""


def shuffled(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Every bag once, in random order: int64 [count]."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def balanced(labels: Sequence[int], seed: int, epoch: int) -> NDArray[np.int64]:
    """As many bags as there are, drawn with replacement, each class as likely: int64 [len(labels)]."""
    known = np.asarray(labels)
    _, classes, sizes = np.unique(known, return_inverse=True, return_counts=True)
    likely = 1 / (len(sizes) * sizes[classes])
    return np.random.default_rng([seed, epoch]).choice(len(known), size=len(known), p=likely)


def bucketed(
    order: NDArray[np.int64], lengths: NDArray[np.int64], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Batches of bags of like length, so that little is padding.

    The order is cut into windows of 16 batches; each is sorted by length, which noise of up to 30 % blurs, and cut into
    batches; these are shuffled.

    Args:
        order: of the bags, shuffled.
        lengths: slices of each bag, by its number.
        batch_size: at most so many bags a batch.
        seed: of the run.
        epoch: counted from 0.
    """
    random = np.random.default_rng([seed, epoch, 1])  # another stream than the order's
    blurred = lengths * random.uniform(1, 1 + NOISE, len(lengths))
    batches = [
        batch
        for window in pieces(order, WINDOW * batch_size)
        for batch in pieces(np.array(window)[np.argsort(blurred[window], kind="stable")], batch_size)
    ]
    return [batches[i] for i in random.permutation(len(batches))]


def padding(batches: Sequence[Sequence[int]], lengths: NDArray[np.int64]) -> float:
    """The share of places that is padding when each batch's bags are padded to its longest."""
    places = sum(len(batch) * int(lengths[list(batch)].max()) for batch in batches)
    return 1 - sum(int(lengths[list(batch)].sum()) for batch in batches) / places


def numbered(batches: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """A bag's number, when it comes again in an epoch raised by the number of bags: see `BagDataset`."""
    earlier = [0] * count
    found: list[list[int]] = []
    for batch in batches:
        found.append([])
        for bag in batch:
            found[-1].append(bag + count * earlier[bag])
            earlier[bag] += 1
    return found


def pieces(order: NDArray[np.int64], most: int) -> list[list[int]]:
    """Cut an order into as few pieces of at most `most` as there can be, all but equally long: no tiny last batch."""
    return [piece.tolist() for piece in np.array_split(order, -(-len(order) // most))] if len(order) else []


def share(batches: Sequence[Sequence[int]], rank: int, processes: int) -> list[list[int]]:
    """One process's bags of each batch.

    Args:
        batches: of all processes together.
        rank: of the process, from 0.
        processes: how many there are.

    Raises:
        UsageError: a batch has fewer bags than there are processes.
    """
    smallest = min((len(batch) for batch in batches), default=processes)
    if smallest < processes:
        raise UsageError(
            f"a batch of {smallest} bags cannot be shared by {processes} processes; give a larger trainer.batch_size "
            f"or trainer.devices={smallest}"
        )
    return [list(batch[rank::processes]) for batch in batches]


def loads(lengths: Sequence[int], most_bags: int, most_slices: int) -> list[list[int]]:
    """Neighbours together: at most so many bags, and so many slices unless one bag alone has more.

    Args:
        lengths: slices of each bag.
        most_bags: in one load.
        most_slices: in one load.

    Returns:
        The bags' numbers, ascending.
    """
    found: list[list[int]] = []
    room = 0
    for bag, length in enumerate(lengths):
        if not found or len(found[-1]) == most_bags or length > room:
            found.append([])
            room = most_slices
        found[-1].append(bag)
        room -= length
    return found
