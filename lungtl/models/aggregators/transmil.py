"""TransMIL."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from lungtl.models.aggregators.torchmil_model import TorchmilModel, torchmil_models
from lungtl.settings.errors import UsageError


class TransMil(TorchmilModel):
    """torchmil's TransMIL: a transformer with a class token, with positions encoded by convolutions over a square.

    The slices, repeated from the first until they fill a square, follow a class token:
    x <- x + NystromMSA(LN(x)); x <- x + conv7(x) + conv5(x) + conv3(x) on the square; x <- x + NystromMSA(LN(x));
    logit = u . LN(x_c) + b. Nystrom's approximation of the attention has width / 2 landmarks. Weights: the class
    token's attention in the last layer, averaged over the heads; the approximation may be negative and need not
    sum to 1, so absolute values are normalised. Repeated slices are not counted.

    The order of the slices matters, their positions in the scan are not used.

    Shao et al.: TransMIL: Transformer based Correlated Multiple Instance Learning for Whole Slide Image Classification,
    NeurIPS 2021, algorithm 2.
    """

    order_matters = True

    def __init__(self, dim: int, width: Annotated[int, Ge(2)] = 128, heads: Annotated[int, Ge(1)] = 4) -> None:
        if width % heads:
            raise UsageError(f"aggregator.heads={heads} does not divide aggregator.width={width}; change one of them")
        model = torchmil_models().TransMIL(in_shape=(dim,), att_dim=width, n_heads=heads)
        for layer in model.layers:
            layer.norm2 = nn.Identity()  # belongs to an MLP that TransMIL's layers do not have
        super().__init__(model)

    def aggregate(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        logit, attention = self.model(bag, return_att=True)
        return logit, F.normalize(attention.abs(), p=1, dim=1)
