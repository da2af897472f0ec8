"""Attention on embeddings smoothed along z."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from lungtl.models.aggregators.torchmil_model import TorchmilModel, torchmil_models


class SmAttention(TorchmilModel):
    """torchmil's SmABMIL: `attention` on embeddings that are smoothed over neighbouring slices.

    g <- (1 - r) h + r A g, `steps` times from g = h, with a learned r and A = D^(-1/2) C D^(-1/2), where C connects
    adjacent slices and D contains its row sums;  w_s = softmax_s(a . tanh(V g_s)),  logit = u . sum_s w_s g_s + b

    Neighbours are adjacent among the given slices: in a training step with sampled slices, the next sampled ones.

    Castro-Macías et al.: Sm: enhanced localization in Multiple Instance Learning for medical imaging classification,
    NeurIPS 2024 (evaluated there on head CT).
    """

    order_matters = True

    def __init__(self, dim: int, hidden: Annotated[int, Ge(1)] = 128, steps: Annotated[int, Ge(1)] = 10) -> None:
        super().__init__(torchmil_models().SmABMIL(in_shape=(dim,), att_dim=hidden, sm_steps=steps))

    def aggregate(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        logit, scores = self.model(bag, chain(bag.shape[1], bag.device), return_att=True)
        return logit, torch.softmax(scores, dim=1)


def chain(count: int, device: torch.device) -> Tensor:
    """Normalised adjacency matrix of consecutive slices: float [1, count, count]; 0 for a single slice."""
    index = torch.arange(count, device=device)
    adjacency = ((index[:, None] - index).abs() == 1).float()
    scale = adjacency.sum(dim=1).clamp(min=1).rsqrt()
    return (scale[:, None] * adjacency * scale).unsqueeze(0)
