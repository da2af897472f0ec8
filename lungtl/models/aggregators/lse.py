"""Log-sum-exp: between the mean and the maximum."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from lungtl.models.aggregators.base import Pooling, malignancy_logits, masked_softmax


class Lse(Pooling):
    """A smooth maximum: close to the mean at high temperature t, to the maximum at low t.

    lse_s(x_s) = t log((1/S) sum_s exp(x_s / t)), and the weight of a slice is its derivative, w_s = softmax_s(x_s / t)

    * instance: logit = lse_s z_s, z_s the logit of a slice's malignancy;
    * embedding: logit = u . lse_s h_s + b, elementwise; w_s is the mean over the components.

    Pinheiro, Collobert: From Image-level to Pixel-level Labeling with Convolutional Networks, CVPR 2015 (their
    r is 1 / t).
    """

    def __init__(
        self,
        dim: int,
        level: Literal["embedding", "instance"] = "instance",
        temperature: Annotated[float, Gt(0)] = 1.0,
    ) -> None:
        super().__init__(dim, level)
        self.temperature = temperature

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if self.classifier is not None:
            scores = embeddings.float() / self.temperature
            weights = masked_softmax(scores, mask).mean(dim=-1)
            return self.classifier(self._pooled(scores, mask.unsqueeze(-1))).squeeze(-1), weights
        scores = malignancy_logits(slice_logits) / self.temperature
        return self._pooled(scores, mask), masked_softmax(scores, mask)

    def _pooled(self, scores: Tensor, real: Tensor) -> Tensor:
        total = torch.logsumexp(scores.masked_fill(~real, -torch.inf), dim=1)
        return self.temperature * (total - real.sum(dim=1).log())
