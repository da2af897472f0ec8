"""Bags for the aggregators' tests."""

from __future__ import annotations

import torch
from torch import Tensor

DIM = 6


def bags(lengths: list[int], seed: int = 0, padded_to: int = 0, fill: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [B, S, DIM], slice logits [B, S, 3] and the mask; `fill` stands at padded places."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(*lengths, padded_to) if lengths else padded_to
    embeddings = torch.full((len(lengths), longest, DIM), fill)
    logits = torch.full((len(lengths), longest, 3), fill)
    mask = torch.zeros(len(lengths), longest, dtype=torch.bool)
    for row, count in enumerate(lengths):
        embeddings[row, :count] = torch.randn(count, DIM, generator=generator)
        logits[row, :count] = 3 * torch.randn(count, 3, generator=generator)
        mask[row, :count] = True
    return embeddings, logits, mask
