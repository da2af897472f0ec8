"""Unfreeze the network block by block, from its output down."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, Group, top_blocks


class Gradual(FreezingStrategy):
    """Only head and aggregator train at first; every few epochs one more block is unfrozen.

    Gradual unfreezing of Howard and Ruder (2018), "Universal Language Model Fine-tuning for Text Classification".

    Args:
        every: epochs between two blocks; the last block is unfrozen at epoch `every`, the one before it at twice that.
        lr_scale: the unfrozen blocks' learning rate as a share of the head's.
        most: maximum number of blocks to unfreeze, from the output down; None: all of them.
    """

    def __init__(
        self,
        every: Annotated[int, Ge(1)],
        lr_scale: Annotated[float, Gt(0)] = 0.1,
        most: Annotated[int, Ge(1)] | None = None,
    ) -> None:
        self.every = every
        self.lr_scale = lr_scale
        self.most = most

    def groups(self, backbone: TimmBackbone) -> list[Group]:
        blocks = top_blocks(backbone, self.most, "freezing.most")
        return [
            Group(block.name, block.parameters, self.lr_scale, epoch=self.every * (depth + 1))
            for depth, block in enumerate(blocks)
        ]
