"""Linear probe: the pretrained backbone does not change."""

from __future__ import annotations

from lungtl.models.backbones.base import Backbone
from lungtl.models.freezing.base import FreezingStrategy, Group


class Frozen(FreezingStrategy):
    """Only head and aggregator train; the backbone is frozen, batch-norm statistics included."""

    def groups(self, backbone: Backbone) -> list[Group]:
        return []
