"""Linear probe: the pretrained backbone does not change."""

from __future__ import annotations

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, Group


class Frozen(FreezingStrategy):
    """Only head and aggregator train; the backbone is frozen, batch-norm statistics included."""

    def groups(self, backbone: TimmBackbone) -> list[Group]:
        return []
