"""Train everything from random weights: the control that shows the benefit of transfer."""

from __future__ import annotations

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, Group


class FromScratch(FreezingStrategy):
    """Random weights from the run's seed; all parameters train at the head's learning rate.

    The baseline of Raghu et al. (2019), "Transfusion: Understanding Transfer Learning for Medical Imaging".
    """

    weights = "none"

    def groups(self, backbone: TimmBackbone) -> list[Group]:
        return [Group("backbone", tuple(name for name, _ in backbone.named_parameters()), 1.0)]
