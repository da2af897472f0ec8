"""Train only the normalisation layers."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, Group
from lungtl.settings.errors import UsageError


class NormOnly(FreezingStrategy):
    """Scales and shifts of the normalisation layers train; batch-norm statistics are updated.

    Frankle et al. (2021), "Training BatchNorm and Only BatchNorm: On the Expressive Power of Random Features in CNNs".
    """

    def __init__(self, lr_scale: Annotated[float, Gt(0)] = 1.0) -> None:
        self.lr_scale = lr_scale

    def groups(self, backbone: TimmBackbone) -> list[Group]:
        names = tuple(
            f"{path}.{name}"
            for path, module in backbone.named_modules()
            # by class name: timm's normalisation layers have no common base class
            if "Norm" in type(module).__name__
            for name, _ in module.named_parameters(recurse=False)
        )
        if not names:
            raise UsageError(f"freezing=norm_only: {backbone.name} has no normalisation layers; use freezing=bitfit")
        return [Group("normalisation", names, self.lr_scale)]
