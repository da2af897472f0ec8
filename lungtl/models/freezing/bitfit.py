"""Train only the biases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from lungtl.models.backbones.base import Backbone
from lungtl.models.freezing.base import FreezingStrategy, Group
from lungtl.settings.errors import UsageError


@dataclass(eq=False)
class BitFit(FreezingStrategy):
    """All biases train, including those of normalisation layers; batch-norm statistics stay frozen.

    Ben Zaken et al. (2022), "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
    Language-models"; for CNNs, Cai et al. (2020), "TinyTL".
    """

    lr_scale: Annotated[float, Gt(0)] = 1.0

    def groups(self, backbone: Backbone) -> list[Group]:
        names = tuple(name for name, _ in backbone.named_parameters() if name.endswith("bias"))
        if not names:
            raise UsageError(f"freezing=bitfit: {backbone.name} has no biases; use freezing=norm_only")
        return [Group("biases", names, self.lr_scale)]
