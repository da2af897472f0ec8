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
        if len(piece):
            waiting.append(piece)
        if sum(map(len, waiting)) >= size:
            rows = waiting[0] if len(waiting) == 1 else torch.cat(waiting)
            whole = len(rows) // size * size
            waiting = [rows[whole:].clone()] if whole < len(rows) else []  # a view would keep all of it in memory
            yield from rows[:whole].split(size)
    if waiting:
        yield torch.cat(waiting)
