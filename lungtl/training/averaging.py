"""The exponential moving average of the weights, which validates and is what a run leaves behind."""

from __future__ import annotations

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class AveragedWeights(WeightAveraging):
    """After the first step average = weights; after each further one average = decay * average + (1 - decay) * weights.

    Batch-norm statistics are averaged likewise. While validation runs, and in a checkpoint's `state_dict`, the average
    stands in the weights' place; training goes on from the weights themselves.

    Lightning's `EMAWeightAveraging` computes the formula as it stands, whose rounding moves what is frozen; counters
    among the buffers lose their fractions to it and stand still.

    Args:
        decay: share of the average that a step leaves.
        device: where to keep the average; the module is moved to its own only after the average is made.
    """

    def __init__(self, decay: float, device: torch.device) -> None:
        def average(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            if not averaged.is_floating_point():
                return current
            return averaged.lerp(current, 1 - decay)  # exact where both are the same

        super().__init__(device=device, avg_fn=average)
