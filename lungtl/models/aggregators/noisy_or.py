"""The noisy-or over the slices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lungtl.models.aggregators.base import Aggregator, malignancy_logits, masked_softmax

RARE = -14.0
"""Below this log of the summed evidence, it equals the logit in float32."""


class NoisyOr(Aggregator):
    """The scan is benign only if every slice, independently, is.

    1 - p = prod_s (1 - p_s). With the evidence of a slice e_s = -log(1 - p_s) >= 0: p = 1 - exp(-sum_s e_s). The
    weight of a slice is its share of the evidence, w_s = e_s / sum_t e_t. Evidence adds up, so a longer scan of
    similar slices is more suspicious. There are no parameters beyond the slice head.

    Maron, Lozano-Pérez: A Framework for Multiple-Instance Learning, NIPS 1997; trained by gradients: Viola, Platt,
    Zhang: Multiple Instance Boosting for Object Detection, NIPS 2005.
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
        # logit = log(exp(sum) - 1); where that equals log(sum), the sum itself may have underflowed
        evidence = F.softplus(z).masked_fill(~mask, 0.0).sum(dim=1).clamp(min=1e-7)
        logit = torch.where(log_sum < RARE, log_sum, evidence + torch.log(-torch.expm1(-evidence)))
        return logit, masked_softmax(log_evidence, mask)


def _log_softplus(z: Tensor) -> Tensor:
    """Log log(1 + exp(z)), which is z - exp(z) / 2 + ...: below RARE, in float32, z itself."""
    return torch.where(z < RARE, z, F.softplus(z.clamp(min=RARE)).log())
