"""Fine-tune everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from lungtl.models.backbones.base import Backbone
from lungtl.models.freezing.base import FreezingStrategy, Group


@dataclass(eq=False)
class Full(FreezingStrategy):
    """All parameters train."""

    lr_scale: Annotated[float, Gt(0)] = 0.1

    def groups(self, backbone: Backbone) -> list[Group]:
        return [Group("backbone", tuple(name for name, _ in backbone.named_parameters()), self.lr_scale)]
