"""Losses whose parts lie in several batches, or in the processes that share one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lungtl.models.collective import processes, summed
from lungtl.training.losses import Part


def own_share(parts: Mapping[str, Part]) -> dict[str, Part]:
    """A process's share of a batch's loss, such that the mean over the processes, which DDP takes, is the loss.

    The numerators times the number of processes, over the denominators of all.
    """
    denominators = summed(torch.stack([part.denominator for part in parts.values()]))
    return {
        name: Part(processes() * part.numerator, denominator)
        for (name, part), denominator in zip(parts.items(), denominators, strict=True)
    }


def added(batches: Sequence[Mapping[str, Part]]) -> dict[str, Part]:
    """The parts of all batches of all processes as those of one."""
    sums = {name: torch.stack([torch.stack(batch[name]) for batch in batches]).sum(dim=0) for name in batches[0]}
    return {name: Part(*summed(both)) for name, both in sums.items()}
