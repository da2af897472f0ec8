"""Bounded memory for a network that trains: activations beyond a budget are computed again in the backward pass.

Gradient checkpointing (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost") over chunks of slices: it
changes gradients by rounding only, and the repeated pass draws the same dropout.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

CPU_BUDGET = 2**29  # bytes of activations that a step keeps
GPU_SHARE = 0.5  # likewise, of a GPU's memory


def activation_budget(device: torch.device) -> int:
    """Bytes of activations that a training step may keep on a device."""
    if device.type != "cuda":
        return CPU_BUDGET
    return int(GPU_SHARE * torch.cuda.get_device_properties(device).total_memory)


def mixes_slices(network: nn.Module) -> bool:
    """Whether what the network computes of a slice depends on the others: it has batch norms in training mode."""
    return any(part.training and getattr(part, "running_var", None) is not None for part in network.modules())


def in_chunks(network: Callable[[Tensor], Tensor], rows: Tensor, size: int, budget: int) -> Tensor:
    """Apply a network that does not mix rows, float [N, ...] -> [N, D], in chunks of `size` rows.

    The first chunks keep their activations, as long as these fit into the budget (bytes; the first chunk always does).
    """
    outputs: list[Tensor] = []
    kept: dict[int, int] = {}  # address -> bytes, so that weights, which every chunk saves, count once

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    largest = 0
    for chunk in rows.split(size):
        before = sum(kept.values())
        if before + largest > budget:
            outputs.append(checkpoint(network, chunk, use_reentrant=False))
            continue
        with saved_tensors_hooks(note, lambda tensor: tensor):
            outputs.append(network(chunk))
        largest = max(largest, sum(kept.values()) - before)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)
