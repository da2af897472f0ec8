"""Models of the torchmil library as aggregators."""

from __future__ import annotations

from abc import abstractmethod
from types import ModuleType

import torch
from torch import Tensor, nn

from lungtl.models.aggregators.base import Aggregator
from lungtl.settings.errors import LungtlError


def torchmil_models() -> ModuleType:
    """Import torchmil's models; raises LungtlError if it is not installed."""
    try:
        from torchmil import models
    except ImportError as error:
        raise LungtlError("this aggregator needs the torchmil package; pip install 'lungtl[mil]'") from error
    module: ModuleType = models
    return module


class TorchmilModel(Aggregator):
    """Applies a torchmil model to one bag at a time, without padding and in float32.

    In torchmil 1.0 TransMIL takes no mask and scales its pseudo-inverse by the whole batch, and DSMIL may choose
    padding as its critical slice: a bag's result would depend on its batch. torchmil's additional losses are omitted.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def aggregate(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Aggregate one bag: float32 [1, S, D] -> logit float [1], and weights float [1, S] (>= 0, sum 1)."""

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(embeddings.device.type, enabled=False):  # an iterated pseudo-inverse needs full precision
            bags = [bag[real].unsqueeze(0) for bag, real in zip(embeddings.float(), mask, strict=True)]
            logits, bag_weights = zip(*map(self.aggregate, bags), strict=True)
        weights = torch.zeros(mask.shape, device=mask.device)
        weights[mask] = torch.cat([one[0] for one in bag_weights])
        return torch.cat(logits), weights
