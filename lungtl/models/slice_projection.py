"""The layers between a backbone's embedding and everything that is learned on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lungtl.models.collectives import all_reduce_sum, world_size


class Standardise(nn.BatchNorm1d):
    """Batch norm without weights, whose statistics are those of all slices of a batch across DDP ranks.

    torch's SyncBatchNorm does not run on CPUs.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, affine=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Standardise float [N, dim]; a single slice has no statistics and uses the running ones."""
        if not self.training:
            return super().forward(embeddings)
        count = len(embeddings)
        if world_size() > 1:
            count = int(all_reduce_sum(torch.tensor(count, device=embeddings.device)))
        if count == 1:
            return F.batch_norm(embeddings, self.running_mean, self.running_var, eps=self.eps)
        if world_size() == 1:
            return super().forward(embeddings)
        rows = embeddings.float()
        mean = all_reduce_sum(rows.sum(dim=0)) / count
        variance = all_reduce_sum((rows - mean).square().sum(dim=0)) / count
        with torch.no_grad():  # as nn.BatchNorm1d does
            layer: Any = self
            layer.running_mean.lerp_(mean, layer.momentum)
            layer.running_var.lerp_(variance * count / (count - 1), layer.momentum)
            layer.num_batches_tracked.add_(1)
        return ((rows - mean) * (variance + self.eps).rsqrt()).to(embeddings.dtype)


class SliceProjection(nn.Module):
    """Standardise each component of the embedding, then project: h = dropout(ReLU(W standardise(e) + b)).

    The fully connected layer before pooling follows Ilse et al. (2018) and CLAM (Lu et al. 2021). Components of
    ImageNet embeddings differ by orders of magnitude in scale; standardised, one learning rate suits all of them.
    """

    def __init__(self, dim: int, width: int, dropout: float) -> None:
        super().__init__()
        self.standardise = Standardise(dim)
        self.linear = nn.Linear(dim, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Project float [N, dim], real slices only -> [N, width]."""
        projected: Tensor = self.dropout(F.relu(self.linear(self.standardise(embeddings))))
        return projected
