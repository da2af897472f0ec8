"""The contract of an aggregator, and shared arithmetic.

Shapes: B bags, S slices (padded to the longest bag), D the size of the embedding. `mask` is True for real slices;
padding never changes a result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lungtl.sources.base import MALIGNANT


class Aggregator(nn.Module, ABC):
    """Aggregates the slices of a bag to one malignancy logit."""

    order_matters = False  # whether the slices' order changes the result
    uses_slice_logits = False  # whether the bag logit depends on the slice logits: the bag loss then trains their head

    @abstractmethod
    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Aggregate.

        Args:
            embeddings: float [B, S, D].
            slice_logits: float [B, S, 3] of non-nodule, benign, malignant.
            mask: bool [B, S].
            positions: int64 [B, S], each slice's index in the whole bag, ascending; None: 0, 1, 2, ... A training step
                may use only some slices of a bag.

        Returns:
            bag_logit float [B], and the weights of the slices, float [B, S]; >= 0, 0 on padding, sum 1.
        """


class Pooling(Aggregator):
    """Pools the malignancy logits of the slices (`instance`), or classifies their pooled embeddings (`embedding`)."""

    def __init__(self, dim: int, level: Literal["embedding", "instance"]) -> None:
        super().__init__()
        self.uses_slice_logits = level == "instance"
        self.classifier = nn.Linear(dim, 1) if level == "embedding" else None


def malignancy_logits(slice_logits: Tensor) -> Tensor:
    """Log p / (1 - p) of the malignant class under softmax: [B, S, 3] -> float32 [B, S]."""
    logits = slice_logits.float()
    rest = torch.cat([logits[..., :MALIGNANT], logits[..., MALIGNANT + 1 :]], dim=-1)
    return logits[..., MALIGNANT] - torch.logsumexp(rest, dim=-1)


def mean_probability_logit(logits: Tensor, mask: Tensor) -> Tensor:
    """Logit of the mean probability of the real slices: [B, S], [B, S] -> [B].

    log(mean p) - log(mean (1 - p)), computed from logs since probabilities may round to 0 or 1.
    """
    z = logits.masked_fill(~mask, 0.0)
    log_p, log_q = (F.logsigmoid(s).masked_fill(~mask, -torch.inf) for s in (z, -z))
    return torch.logsumexp(log_p, dim=1) - torch.logsumexp(log_q, dim=1)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the real slices, 0 on padding: [B, S], or [B, S, H] for H heads -> float32 of the same shape."""
    real = mask if scores.ndim == 2 else mask.unsqueeze(-1)
    return torch.softmax(scores.float().masked_fill(~real, -torch.inf), dim=1)


def uniform_weights(mask: Tensor) -> Tensor:
    """1 / number of real slices, 0 on padding: [B, S] -> float [B, S]."""
    real = mask.float()
    return real / real.sum(dim=1, keepdim=True)


def weighted_mean(embeddings: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """sum_s w_s h_s: [B, S, D], [B, S] -> [B, D]; padding may contain anything, including NaN."""
    real = embeddings.masked_fill(~mask.unsqueeze(-1), 0.0)
    return torch.einsum("bs,bsd->bd", weights, real)
