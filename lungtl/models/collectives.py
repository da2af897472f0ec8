"""Collectives across DDP ranks; no-ops in a single process."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that share each batch."""
    return distributed.get_world_size() if _is_distributed() else 1


def rank() -> int:
    """Index of this process, from 0."""
    return distributed.get_rank() if _is_distributed() else 0


def all_reduce_sum(value: Tensor) -> Tensor:
    """Sum over the ranks, of the same shape; gradients flow back to every rank."""
    if not _is_distributed():
        return value
    total: Tensor = all_reduce(value)
    return total


def all_gather(value: T) -> list[T]:
    """The value of each rank, in the order of ranks; any object that can be pickled."""
    values: list[Any] = [value]
    if _is_distributed():
        values *= distributed.get_world_size()
        distributed.all_gather_object(values, value)
    return values


@torch.no_grad()
def average_batch_norm_statistics(network: nn.Module) -> None:
    """Set the running statistics of trainable batch norms to their mean over the ranks.

    Each rank has seen its own slices. Frozen layers keep their statistics bit for bit; batch norms without parameters
    are those of `lungtl.models.slice_projection`, which synchronise in every step.
    """
    if world_size() == 1:
        return
    for layer in network.modules():
        trainable = [parameter.requires_grad for parameter in layer.parameters()]
        if not trainable or not all(trainable):
            continue
        for name in ("running_mean", "running_var"):
            statistic = getattr(layer, name, None)
            if isinstance(statistic, Tensor):
                statistic.copy_(all_reduce_sum(statistic) / world_size())


def _is_distributed() -> bool:
    return distributed.is_available() and distributed.is_initialized()
