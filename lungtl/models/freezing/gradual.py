"""Thaw the network block by block, from its output down."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, Group
from lungtl.models.freezing.top_blocks import top_blocks


class Gradual(FreezingStrategy):
    """Head and aggregator train alone at first; every k epochs one more block thaws, and stays thawed.

    Gradual unfreezing of Howard and Ruder (2018), "Universal Language Model Fine-tuning for Text Classification".

    Args:
        every: epochs between two blocks; the last block thaws at epoch `every`, the one before it at twice that.
        lr_scale: the thawed blocks' learning rate as a share of the head's.
        most: how many blocks thaw in all, counted from the output; the rest never trains. None: all of them.
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
