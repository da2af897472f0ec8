"""DSMIL."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from lungtl.models.aggregators.torchmil_model import TorchmilModel, torchmil_models


class Dsmil(TorchmilModel):
    """torchmil's dual-stream MIL: slices are weighted by their similarity to the most suspicious one.

    c_s = v . h_s + a, m = argmax_s c_s, q_s = W h_s + d;  w_s = softmax_s(q_s . q_m / sqrt(hidden)),
    logit = (max_s c_s + u . sum_s w_s h_s + b) / 2

    The authors also score a bag by the mean of both streams' logits. They train the sum of one loss per stream; here
    the loss is that of the mean.

    Li, Li, Eliceiri: Dual-stream Multiple Instance Learning Network for Whole Slide Image Classification with
    Self-supervised Contrastive Learning, CVPR 2021.
    """

    def __init__(self, dim: int, hidden: Annotated[int, Ge(1)] = 128) -> None:
        super().__init__(torchmil_models().DSMIL(in_shape=(dim,), att_dim=hidden))

    def aggregate(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        logit, weights, slice_logits = self.model(bag, return_att=True, return_inst_pred=True)
        return (logit + slice_logits.amax(dim=1)) / 2, weights.squeeze(-1)
