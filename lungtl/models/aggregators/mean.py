"""The mean over the slices."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lungtl.models.aggregators.base import (
    Pooling,
    malignancy_logits,
    mean_probability_logit,
    uniform_weights,
    weighted_mean,
)


class Mean(Pooling):
    """All slices have the same weight, w_s = 1 / S.

    * embedding: logit = u . (1/S) sum_s h_s + b, a classifier on the mean embedding;
    * instance: p = (1/S) sum_s p_s, the mean of the slices' malignancy probabilities, as a logit.
    """

    def __init__(self, dim: int, level: Literal["embedding", "instance"] = "embedding") -> None:
        super().__init__(dim, level)

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        weights = uniform_weights(mask)
        if self.classifier is not None:
            return self.classifier(weighted_mean(embeddings, weights, mask)).squeeze(-1), weights
        return mean_probability_logit(malignancy_logits(slice_logits), mask), weights
