"""Low-rank adaptation: the network is frozen, small matrices added to its layers train."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from torch import nn

from lungtl.models.backbones.base import Backbone
from lungtl.models.freezing.base import FreezingStrategy, Group
from lungtl.settings.errors import LungtlError, UsageError

ADAPTER = ".lora_"
"""Part of the name of each parameter that `peft` adds."""


@dataclass(eq=False)
class Lora(FreezingStrategy):
    """Each adapted layer computes W x + alpha / rank * B A x, where only A and B train; B starts at zero.

    Hu et al. (2022), "LoRA: Low-Rank Adaptation of Large Language Models", computed with Hugging Face's `peft`.
    After training the product is added to W, so predictions and bundles use the plain network.
    """

    rank: Annotated[int, Ge(1)] = 8  # of the product B A
    alpha: Annotated[float, Gt(0)] = 16.0  # weight of the product, divided by the rank
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0  # share of an adapter's input that is dropped during training
    # conv: dense convolutions, neither depthwise nor grouped; auto: linear layers if there are any, as in ViTs
    targets: Literal["auto", "linear", "conv"] = "auto"
    lr_scale: Annotated[float, Gt(0)] = 1.0  # learning rate of the adapters, as a share of the head's

    def groups(self, backbone: Backbone) -> list[Group]:
        names = tuple(name for name, _ in backbone.named_parameters() if ADAPTER in name)
        if not names:
            raise RuntimeError("the backbone has no LoRA adapters: call adapt first")
        return [Group("adapters", names, self.lr_scale)]

    def adapt(self, backbone: Backbone) -> None:
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise LungtlError("freezing=lora needs the package peft; pip install 'lungtl[lora]'") from error
        names = self._target_names(backbone)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # it is only divided by the rank
            lora_dropout=self.dropout,
            target_modules="|".join(map(re.escape, names)),
        )
        inject_adapter_in_model(config, backbone)

    def merge(self, backbone: Backbone) -> None:
        from peft.tuners.lora import LoraLayer

        adapted = [(path, module) for path, module in backbone.named_modules() if isinstance(module, LoraLayer)]
        for path, module in adapted:
            module.merge()
            parent, _, name = path.rpartition(".")
            setattr(backbone.get_submodule(parent), name, module.get_base_layer())
        del backbone.peft_config

    def _target_names(self, backbone: Backbone) -> list[str]:
        # exact types: subclasses also pad or standardise weights
        modules = list(backbone.named_modules())
        linear = [path for path, module in modules if type(module) is nn.Linear]
        conv = [path for path, module in modules if type(module) is nn.Conv2d and module.groups == 1]
        names = {"linear": linear, "conv": conv, "auto": linear or conv}[self.targets]
        if not names:
            raise UsageError(
                f"freezing.targets={self.targets}: {backbone.name} has no such layers; use freezing.targets=auto or "
                "another freezing strategy"
            )
        return names
