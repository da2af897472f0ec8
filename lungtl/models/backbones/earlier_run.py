"""The backbone of an earlier run, from its bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lungtl.bundle import CONFIG, FORMAT, WEIGHTS
from lungtl.models.backbones.loading import LoadedWeights, first_line, read_file
from lungtl.runs.folder import BUNDLE
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import sha256

IN_BUNDLE = "backbone.net."
FOLDERS = f"give the folder of a finished run or its {BUNDLE}/, or a weights file"
Prune = Callable[[nn.Module, str], None]


@dataclass(frozen=True)
class EarlierRun:
    """An earlier run's model, of which the backbone is taken."""

    folder: Path
    name: str
    features: str
    seen: dict[str, tuple[Any, ...]]  # input_size, mean and std, as in timm's pretrained_cfg
    split_fingerprint: str

    @classmethod
    def open(cls, folder: Path) -> EarlierRun:
        """Of a run's folder or the bundle itself; raises LungtlError for other folders."""
        place = folder / BUNDLE if (folder / BUNDLE).is_dir() else folder
        for file_name in (CONFIG, WEIGHTS):
            if not (place / file_name).is_file():
                raise LungtlError(f"backbone.weights={folder} has no {file_name}; {FOLDERS}")
        try:
            config = json.loads((place / CONFIG).read_text())
            if config["format"] != FORMAT:
                raise LungtlError(f"{place} has bundle format {config['format']}, this lungtl reads {FORMAT}")
            backbone, image = config["backbone"], config["preprocessing"]
            seen = {
                "input_size": (len(image["mean"]), int(image["size"]), int(image["size"])),
                "mean": tuple(image["mean"]),
                "std": tuple(image["std"]),
            }
            split = str(config["provenance"].get("split_fingerprint", ""))
            return cls(place, str(backbone["name"]), str(backbone["features"]), seen, split)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise LungtlError(f"{place} is no readable bundle ({first_line(error)}); {FOLDERS}") from error

    @property
    def pruned(self) -> bool:
        """Whether the layers behind the last stage are missing."""
        return self.features != "last"

    def shape(self, model: nn.Module, name: str, prune: Prune | None) -> None:
        """Bring a new network to the form that the earlier run's had; raises LungtlError where it cannot have it."""
        earlier, wanted = self.name.partition(".")[0], name.partition(".")[0]
        if earlier != wanted:
            raise LungtlError(f"{self.folder} holds a {earlier}, not a {wanted}; use backbone.name={self.name}")
        net: Any = model
        if hasattr(net, "set_input_size"):
            net.set_input_size(img_size=self.seen["input_size"][1:])
        net.pretrained_cfg |= self.seen
        if not self.pruned:
            return
        if prune is None:
            raise LungtlError(
                f"{self.folder} was trained with features={self.features}, without the layers behind the last stage; "
                f"use backbone.features={self.features}"
            )
        prune(model, name)

    def read(self) -> tuple[dict[str, Tensor], LoadedWeights]:
        """The state dict under timm's names."""
        path = self.folder / WEIGHTS
        tensors = {k: v for k, v in read_file(path).items() if k.startswith(IN_BUNDLE)}
        loaded = LoadedWeights("bundle", self.name, path.name, sha256(path), self.split_fingerprint)
        return {key.removeprefix(IN_BUNDLE): value for key, value in tensors.items()}, loaded
