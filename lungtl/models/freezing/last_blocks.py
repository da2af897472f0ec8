"""Fine-tune the last blocks: generic early features stay, late ones adapt."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, Group, top_blocks


class LastBlocks(FreezingStrategy):
    """Only the last n blocks train."""

    def __init__(self, n: Annotated[int, Ge(1)], lr_scale: Annotated[float, Gt(0)] = 0.1) -> None:
        self.n = n
        self.lr_scale = lr_scale

    def groups(self, backbone: TimmBackbone) -> list[Group]:
        names = {name for block in top_blocks(backbone, self.n, "freezing.n") for name in block.parameters}
        in_order = tuple(name for name, _ in backbone.named_parameters() if name in names)
        return [Group("backbone", in_order, self.lr_scale)]
