"""Linear probe: the backbone stays as ImageNet left it."""

from __future__ import annotations

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, Group


class Frozen(FreezingStrategy):
    """Nothing of the backbone trains, batch-norm statistics included; only head and aggregator do."""

    def groups(self, backbone: TimmBackbone) -> list[Group]:
        return []
