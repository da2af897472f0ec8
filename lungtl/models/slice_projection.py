"""The layers between a backbone's embedding and everything that is learned on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lungtl.models.collectives import all_reduce_sum, world_size


class Standardise(nn.BatchNorm1d):
    """Batch norm without weights, whose statistics are those of all slices of a batch across DDP ranks.

    torch's SyncBatchNorm does not run on CPUs. Where embeddings do not change, `fix` replaces the statistics of each
    batch by those of all training slices: with a batch of eight bags, whose slices resemble one another, the difference
    was .007 AUROC on 708 nodules.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, affine=False)
        self.fixed = False

    def fix(self, bags: Iterable[Tensor]) -> None:
        """Use the statistics of these embeddings from now on, float [n, dim] each, also in training."""
        count, total, squares = 0, torch.zeros(self.num_features).double(), torch.zeros(self.num_features).double()
        shift = torch.zeros(())  # against cancellation: the mean of the first bag
        for rows in bags:
            shift = shift if count else rows.double().mean(dim=0)
            values = rows.double() - shift
            count, total, squares = count + len(rows), total + values.sum(dim=0), squares + values.square().sum(dim=0)
        layer: Any = self
        layer.running_mean.copy_(shift + total / count)
        layer.running_var.copy_(squares / count - (total / count).square())
        self.fixed = True

    def forward(self, embeddings: Tensor) -> Tensor:
        """Standardise float [N, dim]; a single slice has no statistics and uses the running ones."""
        if self.fixed or not self.training:
            return F.batch_norm(embeddings, self.running_mean, self.running_var, eps=self.eps)
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

    With width=None, h = standardise(e): nothing is learned before the slices are aggregated. The fully connected layer
    before pooling follows Ilse et al. (2018) and CLAM (Lu et al. 2021). Components of ImageNet embeddings differ by
    orders of magnitude in scale; standardised, one learning rate suits all of them.
    """

    def __init__(self, dim: int, width: int | None, dropout: float) -> None:
        super().__init__()
        self.standardise = Standardise(dim)
        self.linear = None if width is None else nn.Linear(dim, width)
        self.width = dim if width is None else width
        self.dropout = nn.Dropout(dropout)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Project float [N, dim], real slices only -> [N, width]."""
        if self.linear is None:
            return cast(Tensor, self.standardise(embeddings))
        projected: Tensor = self.dropout(F.relu(self.linear(self.standardise(embeddings))))
        return projected
