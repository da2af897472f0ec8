"""CLAM."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from lungtl.models.aggregators.torchmil_model import TorchmilModel, torchmil_models


class Clam(TorchmilModel):
    """torchmil's CLAM with a single branch: gated attention as in `gated_attention`.

    w_s = softmax_s(a . (tanh(V h_s) * sigmoid(U h_s))),  logit = u . sum_s w_s h_s + b

    CLAM's instance loss, which clusters the slices of highest and lowest attention, is omitted, as are the two
    classifiers that it trains. With gated=false it is `attention`.

    Lu et al.: Data-efficient and weakly supervised computational pathology on whole-slide images, Nature Biomedical
    Engineering 2021.
    """

    def __init__(self, dim: int, hidden: Annotated[int, Ge(1)] = 128, gated: bool = True) -> None:
        model = torchmil_models().CLAM_SB(in_shape=(dim,), att_dim=hidden, gated=gated)
        model.inst_classifiers = nn.ModuleList()
        super().__init__(model)

    def aggregate(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        logit, scores = self.model(bag, return_att=True)
        return logit, torch.softmax(scores, dim=1)
