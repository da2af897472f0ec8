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

CPU_BUDGET = 7 * 2**28  # bytes of activations that a step keeps
GPU_SHARE = 0.5  # likewise, of a GPU's memory


def activation_budget(device: torch.device) -> int:
    """Bytes of activations that a training step may keep on a device."""
    if device.type != "cuda":
        return CPU_BUDGET
    return int(GPU_SHARE * torch.cuda.get_device_properties(device).total_memory)


def mixes_slices(network: nn.Module) -> bool:
    """Whether what the network computes of a slice depends on the others: it has batch norms in training mode."""
    return any(part.training and getattr(part, "running_var", None) is not None for part in network.modules())


def in_chunks(network: Callable[[Tensor], Tensor], rows: Tensor, size: int, budget: int, weights: set[int]) -> Tensor:
    """Apply a network that does not mix rows, float [N, ...] -> [N, D], in chunks of `size` rows.

    As many rows at the end as fit into the budget keep their activations: the backward pass begins with them, and has
    freed their memory before it computes the first of the others again.

    Args:
        network: what to apply.
        rows: its input.
        size: rows in a chunk.
        budget: bytes.
        weights: addresses of tensors that are in memory anyway.
    """
    if len(rows) <= size:
        return network(rows)
    kept = min(len(rows), budget // max(1, _saved_bytes(network, rows[:1], weights)))
    again, plain = rows.split([len(rows) - kept, kept])
    outputs = [checkpoint(network, chunk, use_reentrant=False) for chunk in again.split(size) if len(chunk)]
    return torch.cat([*outputs, *(network(chunk) for chunk in plain.split(size) if len(chunk))])


def _saved_bytes(network: Callable[[Tensor], Tensor], rows: Tensor, weights: set[int]) -> int:
    """Bytes that a forward pass saves for the backward pass, weights aside; draws no random numbers."""
    saved: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.nbytes
        return tensor.detach()  # the tensor itself would hold the graph that holds it, for ever

    devices = [rows.device] if rows.device.type == "cuda" else []
    with torch.random.fork_rng(devices), saved_tensors_hooks(note, lambda tensor: tensor):
        output = network(rows)  # while it is alive, no address is used twice
    del output
    return sum(size for address, size in saved.items() if address not in weights)
