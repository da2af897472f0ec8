"""Any timm model as a backbone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn

from lungtl.models.backbones.weights import load_model, resolve_weights
from lungtl.settings.errors import UsageError
from lungtl.settings.nearest import nearest

STAGES = 3  # the last stages that `features="stages"` pools


@dataclass(frozen=True)
class Block:
    """A group of layers that freezing strategies treat as a unit, by timm's own grouping.

    Attributes:
        name: of its modules, for tables.
        parameters: names of its parameters.
    """

    name: str
    parameters: tuple[str, ...]


class TimmBackbone(nn.Module):
    """A timm model without its classifier.

    Args:
        name: a timm model, with or without a pretrained tag, e.g. resnet18.a1_in1k.
        weights: auto, hub, wheel, none, a .safetensors/.pth file, or an earlier run's folder (see `weights`).
        features: last: the input of the ImageNet classifier; stages: the mean and maximum of each of the last three
            stages' feature maps, which preserve small, local findings.
        in_chans: channels of the images; weights for three are adapted by timm's rule.

    Attributes:
        dim: size of the embedding.
        input_size: height and width in pixels that the model was trained with.
        mean: of each channel, in the normalisation it was trained with.
        std: likewise.
        weights_source: `weights` with `auto` resolved.
        loaded_weights: provenance and checksum.
    """

    def __init__(
        self, name: str, weights: str = "auto", features: Literal["last", "stages"] = "last", in_chans: int = 3
    ) -> None:
        super().__init__()
        architecture = name.partition(".")[0]
        if not timm.is_model(architecture):
            raise UsageError(f"backbone.name={name} is not a timm model; {nearest(architecture, timm.list_models())}")
        self.name = name
        self.features = features
        self.in_chans = in_chans
        self.weights_source = resolve_weights(weights, architecture)
        prune = _prune if features == "stages" else None
        self.net, self.loaded_weights = load_model(name, self.weights_source, in_chans, prune)
        # channels last makes convolutions faster on CPUs and tensor cores
        for parameter in self.net.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        data = resolve_model_data_config(self.net)
        self.input_size: int = data["input_size"][-1]
        self.mean, self.std = (_per_channel(data[key], in_chans) for key in ("mean", "std"))
        with torch.no_grad():  # timm's num_features is wrong for heads that widen
            image = torch.zeros(1, in_chans, self.input_size, self.input_size)
            self.dim = sum(part.shape[-1] for part in self.eval().parts(image))

    def forward(self, images: Tensor) -> Tensor:
        """Embed slices: float [N, in_chans, H, W], normalised -> [N, dim]."""
        return torch.cat(self.parts(images.contiguous(memory_format=torch.channels_last)), dim=1)

    def parts(self, images: Tensor) -> list[Tensor]:
        """The embedding's parts, to be concatenated: a single one, or mean and maximum of each stage."""
        net: Any = self.net
        if self.features == "last":
            return [net(images)]
        maps: list[Tensor] = net.forward_intermediates(images, indices=STAGES, intermediates_only=True)
        return [pooled for m in maps for pooled in (m.mean(dim=(2, 3)), m.amax(dim=(2, 3)))]

    def set_input_size(self, size: int) -> None:
        """Adapt the position embeddings, if the network has them, to another image size."""
        net: Any = self.net
        if size != self.input_size and hasattr(net, "set_input_size"):
            net.set_input_size(img_size=(size, size))

    def blocks(self) -> list[Block]:
        """The network's blocks, from input to output.

        They follow timm's grouping; where timm defines none (PoolFormer, PiT), they are the network's modules, with
        sequences split into their items. A final normalisation belongs to the block before it.
        """
        ordered = self._grouped()
        if all(self.net.get_parameter(name).ndim == 1 for name in ordered[-1]):
            ordered[-2:] = [ordered[-2] + ordered[-1]]
        blocks = []
        for names in ordered:
            modules = sorted({match[0] for n in names if (match := re.match(r"(features\.)?\w+(\.\d+)?", n))})
            label = modules[0] if len(modules) == 1 else f"{modules[0]} .. {modules[-1]}"
            blocks.append(Block(label, tuple(f"net.{n}" for n in names)))
        return blocks

    def _grouped(self) -> list[list[str]]:
        """Parameter names of each block."""
        if hasattr(self.net, "group_matcher"):
            matcher: Any = self.net.group_matcher(coarse=True)  # type: ignore[operator]
            groups: dict[int, list[str]] = group_with_matcher(self.net.named_parameters(), matcher)
            return [names for _, names in sorted(groups.items())]
        modules: dict[str, list[str]] = {}
        for name, _ in self.net.named_parameters():
            modules.setdefault("".join(re.findall(r"^\w+(?:\.\d+)?", name)), []).append(name)
        return list(modules.values())

    def fingerprint(self) -> str:
        """SHA-256 over all weights and buffers."""
        digest = hashlib.sha256(self.name.partition(".")[0].encode())
        for key, value in sorted(self.net.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """The given values, or their mean for each channel if the weights have another number of channels."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def _prune(net: Any, name: str) -> None:
    """Remove the layers behind the last stage, which nothing would train."""
    if not hasattr(net, "prune_intermediate_layers"):
        raise UsageError(f"backbone.features=stages: timm cannot split {name} into stages; use features=last")
    net.prune_intermediate_layers(STAGES, prune_norm=True, prune_head=True)
