"""Gated attention-based pooling."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from lungtl.models.aggregators.base import Aggregator, masked_softmax, weighted_mean


class GatedAttention(Aggregator):
    """Attention whose tanh features pass a learned gate, since tanh is nearly linear around zero.

    w_s = softmax_s(a . (tanh(V h_s) * sigmoid(U h_s))),  logit = u . sum_s w_s h_s + b

    Ilse, Tomczak, Welling: Attention-based Deep Multiple Instance Learning, ICML 2018, equation 9.
    """

    def __init__(self, dim: int, hidden: Annotated[int, Ge(1)] = 128) -> None:
        super().__init__()
        self.features = nn.Linear(dim, hidden)
        self.gate = nn.Linear(dim, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)
        self.classifier = nn.Linear(dim, 1)

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        scores = self.score(torch.tanh(self.features(embeddings)) * torch.sigmoid(self.gate(embeddings))).squeeze(-1)
        weights = masked_softmax(scores, mask)
        return self.classifier(weighted_mean(embeddings, weights, mask)).squeeze(-1), weights
