"""The contract of an aggregator, and the arithmetic that several share.

Shapes: B bags, S slices (padded to the longest bag), D the embedding's size. `mask` is True where a slice is real;
what stands at padded places never changes a result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lungtl.sources.base import MALIGNANT


class Aggregator(nn.Module, ABC):
    """Turns the slices of a bag into one malignancy logit.

    Attributes:
        order_matters: whether the slices' order changes the result.
        uses_slice_logits: whether the bag's logit comes from the slice logits, so that its loss trains the slice head.
    """

    order_matters = False
    uses_slice_logits = False

    @abstractmethod
    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Aggregate.

        Args:
            embeddings: float [B, S, D].
            slice_logits: float [B, S, 3] of non-nodule, benign, malignant.
            mask: bool [B, S].
            positions: int64 [B, S], each slice's index in its whole bag, ascending; None: 0, 1, 2, ... A training step
                may see only some slices of a bag.

        Returns:
            bag_logit float [B], and weights float [B, S]: how much each slice counted; >= 0, 0 on padding, sum 1.
        """


def malignancy_logits(slice_logits: Tensor) -> Tensor:
    """Log p / (1 - p) of the malignant class under softmax: [B, S, 3] -> float32 [B, S], mixed precision or not."""
    logits = slice_logits.float()
    others = torch.cat([logits[..., :MALIGNANT], logits[..., MALIGNANT + 1 :]], dim=-1)
    return logits[..., MALIGNANT] - torch.logsumexp(others, dim=-1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the real slices, 0 on padding: [B, S] or [B, S, H] with H sets of scores -> float32, likewise."""
    real = mask if scores.ndim == 2 else mask.unsqueeze(-1)
    return torch.softmax(scores.float().masked_fill(~real, -torch.inf), dim=1)


def uniform_weights(mask: Tensor) -> Tensor:
    """1 / number of real slices, 0 on padding: [B, S] -> float [B, S]."""
    real = mask.float()
    return real / real.sum(dim=1, keepdim=True)


def weighted_mean(embeddings: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """sum_s w_s h_s: [B, S, D], [B, S] -> [B, D]; padding may hold anything, NaN included."""
    real = embeddings.masked_fill(~mask.unsqueeze(-1), 0.0)
    return torch.einsum("bs,bsd->bd", weights, real)
