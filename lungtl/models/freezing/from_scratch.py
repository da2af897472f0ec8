"""Train everything from random weights: the control that shows the benefit of transfer."""

from __future__ import annotations

from lungtl.models.backbones.base import Backbone
from lungtl.models.freezing.base import FreezingStrategy, Group


class FromScratch(FreezingStrategy):
    """Random weights from the run's seed; all parameters train at the head's learning rate.

    The baseline of Raghu et al. (2019), "Transfusion: Understanding Transfer Learning for Medical Imaging".
    """

    weights = "none"

    def groups(self, backbone: Backbone) -> list[Group]:
        return [Group("backbone", tuple(name for name, _ in backbone.named_parameters()), 1.0)]
