"""Unfreeze the network block by block, from its output down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt

from lungtl.models.backbones.base import Backbone
from lungtl.models.freezing.base import FreezingStrategy, Group, top_blocks


@dataclass(eq=False)
class Gradual(FreezingStrategy):
    """Only head and aggregator train at first; every few epochs one more block is unfrozen.

    Gradual unfreezing of Howard and Ruder (2018), "Universal Language Model Fine-tuning for Text Classification".
    """

    every: Annotated[int, Ge(1)]  # epochs between two blocks; the last is unfrozen at epoch `every`, counted from 0
    lr_scale: Annotated[float, Gt(0)] = 0.1  # of the unfrozen blocks, as a share of the head's
    most: Annotated[int, Ge(1)] | None = None  # maximum number of blocks, from the output down; None: all

    def groups(self, backbone: Backbone) -> list[Group]:
        blocks = top_blocks(backbone, self.most, "freezing.most")
        return [
            Group(block.name, block.parameters, self.lr_scale, epoch=self.every * (depth + 1))
            for depth, block in enumerate(blocks)
        ]
