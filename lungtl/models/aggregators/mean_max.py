"""Mean and maximum over the slices, side by side."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lungtl.models.aggregators.base import Aggregator, uniform_weights, weighted_mean

EPS = 1e-5


class MeanMax(Aggregator):
    """A linear classifier of mean and maximum: x = [(1/S) sum_s h_s, max_s h_s], logit = u . (x - m) / d + b.

    The maximum is elementwise: what only some slices show, such as a calcification, is not averaged away. m and d are
    mean and standard deviation of x over the training bags if h does not change during training (`standardise`), else
    0 and 1: uncentred maxima would all push the logit in the same direction, which costs .015 AUROC on 708 nodules. A
    slice's weight is the mean of 1 / S and its share of the maxima; equal slices share a maximum.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(2 * dim))
        self.register_buffer("scale", torch.ones(2 * dim))
        self.classifier = nn.Linear(2 * dim, 1)

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        uniform = uniform_weights(mask)
        inside = embeddings.masked_fill(~mask.unsqueeze(-1), -torch.inf)
        largest = inside.max(dim=1).values
        winners = inside == largest.unsqueeze(1)
        pooled = torch.cat([weighted_mean(embeddings, uniform, mask), largest], dim=1)
        logits = self.classifier((pooled - self.centre) / self.scale).squeeze(-1)
        return logits, (uniform + (winners / winners.sum(dim=1, keepdim=True)).mean(dim=2)) / 2

    def standardise(self, bags: Iterable[Tensor]) -> None:
        """Set m and d from the embeddings of the training bags, float [S_i, dim] each."""
        pooled = torch.stack([torch.cat([bag.mean(dim=0), bag.amax(dim=0)]).cpu() for bag in bags]).double()
        self.centre.copy_(pooled.mean(dim=0))
        self.scale.copy_((pooled.var(dim=0, correction=0) + EPS).sqrt())
