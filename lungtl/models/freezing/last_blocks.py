"""Fine-tune the last blocks: generic early features stay, late ones adapt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from lungtl.models.backbones.base import Backbone
from lungtl.models.freezing.base import FreezingStrategy, Group, top_blocks


@dataclass(eq=False)
class LastBlocks(FreezingStrategy):
    """Only the last n blocks train."""

    n: Annotated[int, Ge(1)]
    lr_scale: Annotated[float, Gt(0)] = 0.1

    def groups(self, backbone: Backbone) -> list[Group]:
        names = {name for block in top_blocks(backbone, self.n, "freezing.n") for name in block.parameters}
        in_order = tuple(name for name, _ in backbone.named_parameters() if name in names)
        return [Group("backbone", in_order, self.lr_scale)]
