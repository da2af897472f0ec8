"""Rows in chunks of one size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


def full_chunks(pieces: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Rows in order, `size` of them at once, the last time maybe fewer: small pieces share a chunk.

    Args:
        pieces: [n, ...] each, of one shape but for n.
        size: at least 1.
    """
    waiting: list[Tensor] = []
    for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) >= size:
            rows = torch.cat(waiting)
            whole = len(rows) // size * size
            yield from rows[:whole].split(size)
            waiting = [rows[whole:]]
    if sum(map(len, waiting)):
        yield torch.cat(waiting)
