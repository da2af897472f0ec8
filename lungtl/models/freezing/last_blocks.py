"""Fine-tune the end of the network: generic early features stay, late ones adapt."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt

from lungtl.errors import UsageError
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, train_only


class LastBlocks(FreezingStrategy):
    """Only the last n blocks train.

    Args:
        n: how many blocks, counted from the output, by timm's own grouping.
        lr_scale: their learning rate as a share of the head's.
    """

    def __init__(self, n: Annotated[int, Ge(1)], lr_scale: Annotated[float, Gt(0)] = 0.1) -> None:
        self.n = n
        self.lr_scale = lr_scale

    def frozen_blocks(self, backbone: TimmBackbone) -> int:
        count = len(backbone.blocks())
        if self.n > count:
            raise UsageError(f"freezing.n={self.n}: {backbone.name} has {count} blocks; give 1 to {count}")
        return count - self.n

    def apply(self, backbone: TimmBackbone, epoch: int) -> None:
        train_only(backbone, self._names(backbone))

    def parameter_groups(self, backbone: TimmBackbone, lr: float) -> list[dict[str, Any]]:
        names = self._names(backbone)
        parameters = [p for name, p in backbone.named_parameters() if name in names]
        return [{"name": "backbone", "params": parameters, "lr": lr * self.lr_scale}]

    def _names(self, backbone: TimmBackbone) -> set[str]:
        last = backbone.blocks()[self.frozen_blocks(backbone) :]
        return {name for block in last for name in block.parameters}
