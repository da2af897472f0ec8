"""The maximum over the slices."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lungtl.models.aggregators.base import Pooling, malignancy_logits


class Max(Pooling):
    """The most suspicious slice determines the result.

    * instance: logit = max_s z_s, z_s a slice's malignancy logit; that slice has weight 1;
    * embedding: logit = u . max_s h_s + b, elementwise; the weight of a slice is its share of the maxima.
    """

    def __init__(self, dim: int, level: Literal["embedding", "instance"] = "instance") -> None:
        super().__init__(dim, level)

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        slices = torch.arange(mask.shape[1], device=mask.device)
        if self.classifier is not None:
            largest, winners = embeddings.masked_fill(~mask.unsqueeze(-1), -torch.inf).max(dim=1)
            weights = (winners.unsqueeze(-1) == slices).float().mean(dim=1)
            return self.classifier(largest).squeeze(-1), weights
        z, winner = malignancy_logits(slice_logits).masked_fill(~mask, -torch.inf).max(dim=1)
        return z, (winner.unsqueeze(-1) == slices).float()
