"""Optimiser and learning-rate schedule, as parts: any class of torch or timm, and two schedules with warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from lungtl.settings import parts


class Constant(LambdaLR):
    """Linear warm-up, then the full learning rate.

    Args:
        optimizer: whose learning rates are scaled.
        warmup_epochs: epoch e of the first w has the share (e + 1) / (w + 1) of the learning rate.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, warmup_epochs: Annotated[int, Ge(0)] = 1) -> None:
        # a closure, unlike attributes, is not part of the state that a resumed run would restore
        super().__init__(optimizer, lambda epoch: warmup(epoch, warmup_epochs))


class Cosine(LambdaLR):
    """Linear warm-up, then half a cosine, which reaches zero after the last epoch.

    Args:
        optimizer: whose learning rates are scaled.
        max_epochs: length of the run.
        warmup_epochs: as for `Constant`.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, max_epochs: int, warmup_epochs: Annotated[int, Ge(0)] = 1
    ) -> None:
        def factor(epoch: int) -> float:
            if epoch < warmup_epochs:
                return warmup(epoch, warmup_epochs)
            return 0.5 * (1 + math.cos(math.pi * (epoch - warmup_epochs) / max(1, max_epochs - warmup_epochs)))

        super().__init__(optimizer, factor)


def warmup(epoch: int, epochs: int) -> float:
    """Share of the learning rate in an epoch, from 0, of a linear warm-up over so many epochs."""
    return min(1.0, (epoch + 1) / (epochs + 1))


def build_optimizer(spec: Mapping[str, Any], groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Build the optimiser of a config."""
    optimizer: torch.optim.Optimizer = parts.build(spec, params=groups)
    return optimizer


def build_schedule(spec: Mapping[str, Any], optimizer: torch.optim.Optimizer, max_epochs: int) -> LRScheduler:
    """Build the schedule of a config, which steps once per epoch."""
    provided: dict[str, Any] = {"optimizer": optimizer}
    if "max_epochs" in parts.signature(str(spec[parts.TARGET]), "schedule"):
        provided["max_epochs"] = max_epochs
    schedule: LRScheduler = parts.build(spec, **provided)
    return schedule
