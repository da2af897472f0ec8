"""Train only the biases."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, Group
from lungtl.settings.errors import UsageError


class BitFit(FreezingStrategy):
    """All biases train, including those of normalisation layers; batch-norm statistics stay frozen.

    Ben Zaken et al. (2022), "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
    Language-models"; for CNNs, Cai et al. (2020), "TinyTL".
    """

    def __init__(self, lr_scale: Annotated[float, Gt(0)] = 1.0) -> None:
        self.lr_scale = lr_scale

    def groups(self, backbone: TimmBackbone) -> list[Group]:
        names = tuple(name for name, _ in backbone.named_parameters() if name.endswith("bias"))
        if not names:
            raise UsageError(f"freezing=bitfit: {backbone.name} has no biases; use freezing=norm_only")
        return [Group("biases", names, self.lr_scale)]
