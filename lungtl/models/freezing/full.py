"""Fine-tune everything."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, Group


class Full(FreezingStrategy):
    """All parameters train."""

    def __init__(self, lr_scale: Annotated[float, Gt(0)] = 0.1) -> None:
        self.lr_scale = lr_scale

    def groups(self, backbone: TimmBackbone) -> list[Group]:
        return [Group("backbone", tuple(name for name, _ in backbone.named_parameters()), self.lr_scale)]
