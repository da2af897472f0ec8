"""What processes that share a batch tell each other; one process alone hears itself."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def processes() -> int:
    """How many share each batch."""
    return distributed.get_world_size() if _several() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if _several() else 0


def summed(value: Tensor) -> Tensor:
    """The sum over the processes, of the same shape; gradients flow through it to all of them."""
    if not _several():
        return value
    result: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return result


def total_count(count: int, device: torch.device) -> int:
    """The sum over the processes; the device is that of their tensors."""
    return int(summed(torch.tensor(count, device=device))) if _several() else count


def gathered(value: T) -> list[T]:
    """What each process has, by rank; on the CPU."""
    found: list[Any] = [value]
    if _several():
        found *= distributed.get_world_size()
        distributed.all_gather_object(found, value)
    return found


class _Sum(torch.autograd.Function):
    """Each process's value is in each process's sum: the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        result = value.detach().clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        result = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(result)
        return result


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
