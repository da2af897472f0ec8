"""Models of the library torchmil as aggregators."""

from __future__ import annotations

from abc import abstractmethod
from types import ModuleType

import torch
from torch import Tensor, nn

from lungtl.models.aggregators.base import Aggregator
from lungtl.settings.errors import LungtlError


def torchmil_models() -> ModuleType:
    """The module with torchmil's models.

    Raises:
        LungtlError: torchmil is not installed.
    """
    try:
        from torchmil import models
    except ImportError as error:
        raise LungtlError("this aggregator needs the package torchmil; pip install 'lungtl[mil]'") from error
    module: ModuleType = models
    return module


class TorchmilModel(Aggregator):
    """Shows a torchmil model one bag at a time, without padding and in float32.

    In torchmil 1.0 TransMIL takes no mask and scales its pseudo-inverse by the whole batch, and DSMIL may choose a
    padded place as its critical slice: together with others a bag would be judged differently. Losses that torchmil
    adds to a model's own are left out; `loss` is what is minimised.

    Args:
        model: from torchmil.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def judge(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Aggregate one bag.

        Args:
            bag: float32 [1, S, D].

        Returns:
            logit float [1], and weights float [1, S]; >= 0, sum 1.
        """

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(embeddings.device.type, enabled=False):  # an iterated pseudo-inverse needs the digits
            bags = [bag[real].unsqueeze(0) for bag, real in zip(embeddings.float(), mask, strict=True)]
            logits, shares = zip(*map(self.judge, bags), strict=True)
        weights = torch.zeros(mask.shape, device=mask.device)
        weights[mask] = torch.cat([share[0] for share in shares])
        return torch.cat(logits), weights
