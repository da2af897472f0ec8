"""Train only the normalisation layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from lungtl.models.backbones.base import Backbone
from lungtl.models.freezing.base import FreezingStrategy, Group
from lungtl.settings.errors import UsageError


@dataclass(eq=False)
class NormOnly(FreezingStrategy):
    """Scales and shifts of the normalisation layers train; batch-norm statistics are updated.

    Frankle et al. (2021), "Training BatchNorm and Only BatchNorm: On the Expressive Power of Random Features in CNNs".
    """

    lr_scale: Annotated[float, Gt(0)] = 1.0

    def groups(self, backbone: Backbone) -> list[Group]:
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
