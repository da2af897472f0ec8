"""Batch norm that trains in several processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lungtl.models.collective import processes, summed


@torch.no_grad()
def pool_statistics(network: nn.Module) -> None:
    """Set the running statistics of batch norm that trains to their mean over the processes.

    Each process has seen its own slices. What is frozen stays as it is, to the last bit; batch norm without parameters
    is `lungtl.models.slice_projection`'s, which pools in every step.
    """
    if processes() == 1:
        return
    for layer in network.modules():
        statistics = [getattr(layer, name, None) for name in ("running_mean", "running_var")]
        trains = [parameter.requires_grad for parameter in layer.parameters()]
        for statistic in statistics if trains and all(trains) else []:
            if isinstance(statistic, Tensor):
                statistic.copy_(summed(statistic) / processes())
