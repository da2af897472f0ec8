"""An aggregator that lungtl does not have: suspicious slices count more."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from lungtl.models.aggregators.base import Aggregator


class Mine(Aggregator):
    """Average of the slice embeddings, weighted by a softmax over the slices' malignancy logits.

    Args:
        dim: size of an embedding; lungtl fills it in.
        temperature: of the softmax; large values approach the plain mean, small ones the most suspicious slice.
    """

    uses_slice_logits = True

    def __init__(self, dim: int, temperature: Annotated[float, Gt(0)] = 1.0) -> None:
        super().__init__()
        self.temperature = temperature
        self.classifier = nn.Linear(dim, 1)

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        scores = slice_logits[..., 2] - slice_logits[..., :2].logsumexp(dim=-1)  # malignant against the rest
        weights = torch.softmax((scores / self.temperature).masked_fill(~mask, -torch.inf), dim=1)
        slices = embeddings.masked_fill(~mask.unsqueeze(-1), 0.0)  # padding can hold anything
        mean = (weights.unsqueeze(-1) * slices).sum(dim=1)
        return self.classifier(mean).squeeze(-1), weights
