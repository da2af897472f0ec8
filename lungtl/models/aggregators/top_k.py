"""The mean of the k largest."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from lungtl.models.aggregators.base import Pooling, malignancy_logits, mean_probability_logit


class TopK(Pooling):
    """The k most suspicious slices determine the result: k = 1 is the maximum, k >= S the mean.

    * instance: p = mean of the k largest p_s, the slices' malignancy probabilities, as a logit; each of the k slices
      has weight 1 / k;
    * embedding: logit = u . (mean of the k largest h_s) + b, elementwise; the weight of a slice is its share of the
      k largest values over all components.

    A bag of fewer than k slices uses all of them. The mean of the highest scores is that of Durand, Thome, Cord:
    WELDON: Weakly Supervised Learning of Deep Convolutional Neural Networks, CVPR 2016, without its lowest scores.
    """

    def __init__(
        self, dim: int, level: Literal["embedding", "instance"] = "instance", k: Annotated[int, Ge(1)] = 8
    ) -> None:
        super().__init__(dim, level)
        self.k = k

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        scores = malignancy_logits(slice_logits).unsqueeze(-1) if self.classifier is None else embeddings.float()
        # sorted, [B, S, D or 1], padding last; topk(k) would fix the least number of slices of an exported network
        largest, winners = scores.masked_fill(~mask.unsqueeze(-1), -torch.inf).sort(dim=1, descending=True)
        counts = mask.sum(dim=1).clamp(max=self.k)[:, None, None]
        taken = torch.arange(largest.shape[1], device=mask.device)[:, None] < counts
        share = (taken / counts).expand_as(largest)
        weights = torch.zeros_like(scores).scatter(1, winners, share).mean(dim=-1)
        if self.classifier is not None:
            return self.classifier((share * largest.masked_fill(~taken, 0.0)).sum(dim=1)).squeeze(-1), weights
        return mean_probability_logit(largest.squeeze(-1), taken.squeeze(-1)), weights
