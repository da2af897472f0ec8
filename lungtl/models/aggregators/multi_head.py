"""Attention-based pooling with several heads."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from lungtl.models.aggregators.base import Aggregator, masked_softmax


class MultiHead(Aggregator):
    """Several attention heads over the same slices, so that a scan can be judged by more than one finding.

    w_is = softmax_s(a_i . tanh(V h_s)) of head i,  logit = u . [sum_s w_1s h_s, ..., sum_s w_Hs h_s] + b

    A slice's weight is the mean over the heads. One head is `attention`. Lin et al.: A Structured Self-attentive
    Sentence Embedding, ICLR 2017, equation 6, without its penalty on similar heads.
    """

    def __init__(self, dim: int, heads: Annotated[int, Ge(1)] = 4, hidden: Annotated[int, Ge(1)] = 128) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(dim, hidden), nn.Tanh(), nn.Linear(hidden, heads, bias=False))
        self.classifier = nn.Linear(heads * dim, 1)

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        weights = masked_softmax(self.attention(embeddings), mask)  # [B, S, heads]
        real = embeddings.masked_fill(~mask.unsqueeze(-1), 0.0)
        pooled = torch.einsum("bsh,bsd->bhd", weights, real).flatten(1)
        return self.classifier(pooled).squeeze(-1), weights.mean(dim=-1)
