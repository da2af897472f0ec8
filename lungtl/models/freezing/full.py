"""Fine-tune everything."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, train_only


class Full(FreezingStrategy):
    """Every parameter trains.

    Args:
        lr_scale: the backbone's learning rate as a share of the head's.
    """

    def __init__(self, lr_scale: Annotated[float, Gt(0)] = 0.1) -> None:
        self.lr_scale = lr_scale

    def frozen_blocks(self, backbone: TimmBackbone) -> int:
        return 0

    def apply(self, backbone: TimmBackbone, epoch: int) -> None:
        train_only(backbone, {name for name, _ in backbone.named_parameters()})

    def parameter_groups(self, backbone: TimmBackbone, lr: float) -> list[dict[str, Any]]:
        return [{"name": "backbone", "params": list(backbone.parameters()), "lr": lr * self.lr_scale}]
