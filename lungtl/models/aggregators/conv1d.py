"""Convolutions along z, then attention."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from lungtl.models.aggregators.attention import Attention
from lungtl.models.aggregators.base import Aggregator


class Conv1d(Aggregator):
    """Residual convolutions along z combine neighbouring slices; attention then pools the result.

    x_s <- x_s + relu(b + sum_d W_d x_(s+d)), |d| <= kernel // 2, x_s = 0 outside the bag, `layers` times from x = h;
    then `attention` on x, whose weights are the slices'.

    Neighbours are adjacent among the given slices: in a training step with sampled slices, the next sampled ones.
    Residual convolutions over a sequence: Bai, Kolter, Koltun: An Empirical Evaluation of Generic Convolutional and
    Recurrent Networks for Sequence Modeling, 2018, here bidirectional and not dilated. Attention: Ilse et al. 2018.
    """

    order_matters = True

    def __init__(
        self,
        dim: int,
        kernel: Literal[3, 5, 7] = 3,
        layers: Annotated[int, Ge(1)] = 2,
        hidden: Annotated[int, Ge(1)] = 128,
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, dim, kernel, padding=kernel // 2) for _ in range(layers))
        self.pool = Attention(dim, hidden)

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        padding = ~mask.unsqueeze(1)
        x = embeddings.transpose(1, 2).masked_fill(padding, 0.0)
        for convolution in self.convolutions:  # padding stays 0 between layers, like the space outside a bag
            x = (x + torch.relu(convolution(x))).masked_fill(padding, 0.0)
        logit, weights = self.pool(x.transpose(1, 2), slice_logits, mask)
        return logit, weights
