"""Attention on smoothed slices."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from lungtl.models.aggregators.torchmil_model import TorchmilModel, torchmil_models


class SmAttention(TorchmilModel):
    """SmABMIL, by torchmil: `attention` on embeddings that are drawn towards those of the neighbouring slices.

    g <- (1 - r) h + r A g, `steps` times from g = h, with a learned r and A = D^(-1/2) C D^(-1/2), where C joins each
    slice with the next and D holds its row sums;  w_s = softmax_s(a . tanh(V g_s)),  logit = u . sum_s w_s g_s + b

    Neighbours are the slices that are given: where a training step sees only drawn slices, the next drawn ones.

    Castro-Macías et al.: Sm: enhanced localization in Multiple Instance Learning for medical imaging classification,
    NeurIPS 2024 (tried there on CT of the head).

    Args:
        dim: size of the embedding.
        hidden: width of the attention network.
        steps: how often embeddings are drawn.

    Raises:
        LungtlError: torchmil is not installed.
    """

    order_matters = True

    def __init__(self, dim: int, hidden: Annotated[int, Ge(1)] = 128, steps: Annotated[int, Ge(1)] = 10) -> None:
        super().__init__(torchmil_models().SmABMIL(in_shape=(dim,), att_dim=hidden, sm_steps=steps))

    def judge(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        logit, scores = self.model(bag, chain(bag.shape[1], bag.device), return_att=True)
        return logit, torch.softmax(scores, dim=1)


def chain(count: int, device: torch.device) -> Tensor:
    """Normalised adjacency of slices in a row: float [1, count, count]; 0 for a single slice."""
    beside = torch.ones(count - 1, device=device)
    joined = torch.diag(beside, 1) + torch.diag(beside, -1)
    scale = joined.sum(dim=1).clamp(min=1).rsqrt()
    return (scale[:, None] * joined * scale).unsqueeze(0)
