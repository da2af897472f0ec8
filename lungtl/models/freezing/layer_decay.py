"""Fine-tune everything, with lower learning rates nearer to the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le

from lungtl.models.backbones.base import Backbone
from lungtl.models.freezing.base import FreezingStrategy, Group, top_blocks


@dataclass(eq=False)
class LayerDecay(FreezingStrategy):
    """All blocks train, each at the learning rate lr * lr_scale * decay ** (number of blocks after it).

    Layer-wise learning-rate decay, as in Bao et al. (2022), "BEiT: BERT Pre-Training of Image Transformers".
    """

    decay: Annotated[float, Gt(0), Le(1)] = 0.75
    lr_scale: Annotated[float, Gt(0)] = 0.1

    def groups(self, backbone: Backbone) -> list[Group]:
        return [
            Group(block.name, block.parameters, self.lr_scale * self.decay**depth)
            for depth, block in enumerate(top_blocks(backbone, None, "freezing"))
        ]
