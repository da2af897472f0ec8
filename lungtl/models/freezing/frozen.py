"""Linear probe: the backbone stays as ImageNet left it."""

from __future__ import annotations

from typing import Any

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, train_only


class Frozen(FreezingStrategy):
    """Nothing of the backbone trains, batch-norm statistics included; only head and aggregator do."""

    def frozen_blocks(self, backbone: TimmBackbone) -> int:
        return len(backbone.blocks())

    def apply(self, backbone: TimmBackbone, epoch: int) -> None:
        train_only(backbone, set())

    def parameter_groups(self, backbone: TimmBackbone, lr: float) -> list[dict[str, Any]]:
        return []
