"""Learning-rate schedules with warm-up; any class of `torch.optim.lr_scheduler` can be used instead."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Ge
from torch.optim.lr_scheduler import LambdaLR


class Constant(LambdaLR):
    """Linear warm-up, then the full learning rate: epoch e of the first w has its share (e + 1) / (w + 1)."""

    def __init__(self, optimizer: torch.optim.Optimizer, warmup_epochs: Annotated[int, Ge(0)] = 1) -> None:
        # a closure, unlike attributes, is not part of the state that a resumed run would restore
        super().__init__(optimizer, lambda epoch: warmup(epoch, warmup_epochs))


class Cosine(LambdaLR):
    """Linear warm-up as in `Constant`, then half a cosine, which reaches zero after the last of `max_epochs`."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, max_epochs: int, warmup_epochs: Annotated[int, Ge(0)] = 1
    ) -> None:
        def factor(epoch: int) -> float:
            if epoch < warmup_epochs:
                return warmup(epoch, warmup_epochs)
            return 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / max(1, max_epochs - warmup_epochs)))

        super().__init__(optimizer, factor)


def warmup(epoch: int, epochs: int) -> float:
    """Share of the learning rate in an epoch, counted from 0, of a linear warm-up."""
    return min(1.0, (epoch + 1) / (epochs + 1))
