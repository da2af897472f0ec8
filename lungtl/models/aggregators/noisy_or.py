"""The noisy-or over the slices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lungtl.models.aggregators.base import Aggregator, malignancy_logits, masked_softmax

RARE = -14.0
"""Log of a sum of evidence below which it and the logit are the same number in float32."""


class NoisyOr(Aggregator):
    """The scan is malignant unless every slice, on its own, is not.

    1 - p = prod_s (1 - p_s). With e_s = -log(1 - p_s) >= 0, the evidence of a slice: p = 1 - exp(-sum_s e_s). A slice
    weighs its share of the evidence, w_s = e_s / sum_t e_t. Many slightly suspicious slices make a malignant scan, so
    that a longer scan is more suspicious than a shorter one of the same slices. Nothing to learn beyond the slice head.

    Maron, Lozano-Pérez: A Framework for Multiple-Instance Learning, NIPS 1997; trained by gradients: Viola, Platt,
    Zhang: Multiple Instance Boosting for Object Detection, NIPS 2005.

    Args:
        dim: size of the embedding.
    """

    uses_slice_logits = True

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        z = malignancy_logits(slice_logits).masked_fill(~mask, 0.0)
        log_evidence = _log_softplus(z).masked_fill(~mask, -torch.inf)
        log_sum = torch.logsumexp(log_evidence, dim=1)
        # logit = log(exp(sum) - 1); where that is log(sum) to rounding, the sum itself may have underflowed
        evidence = F.softplus(z).masked_fill(~mask, 0.0).sum(dim=1).clamp(min=1e-7)
        logit = torch.where(log_sum < RARE, log_sum, evidence + torch.log(-torch.expm1(-evidence)))
        return logit, masked_softmax(log_evidence, mask)


def _log_softplus(z: Tensor) -> Tensor:
    """Log log(1 + exp(z)), which is z - exp(z) / 2 + ...: below RARE, in float32, z itself."""
    return torch.where(z < RARE, z, F.softplus(z.clamp(min=RARE)).log())
