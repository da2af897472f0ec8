"""Attention-based pooling."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn

from lungtl.models.aggregators.base import Aggregator, masked_softmax, weighted_mean


class Attention(Aggregator):
    """The network learns the weight of each slice.

    w_s = softmax_s(a . tanh(V h_s)),  logit = u . sum_s w_s h_s + b

    Ilse, Tomczak, Welling: Attention-based Deep Multiple Instance Learning, ICML 2018, equation 8.
    """

    def __init__(self, dim: int, hidden: Annotated[int, Ge(1)] = 128) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, 1, bias=False))
        self.classifier = nn.Linear(dim, 1)

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        weights = masked_softmax(self.attention(embeddings).squeeze(-1), mask)
        return self.classifier(weighted_mean(embeddings, weights, mask)).squeeze(-1), weights
