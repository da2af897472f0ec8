"""The backbone of an earlier run, read from its bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lungtl.models.backbones.base import LoadedWeights
from lungtl.models.backbones.loading import first_line, read_file
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import sha256

FORMAT = 1  # of bundles, which `lungtl.bundle` writes
BUNDLE, CONFIG, WEIGHTS = "bundle", "config.json", "model.safetensors"  # folder within a run's folder, and its files
PREFIX = "backbone.net."
EXPECTED = f"give the folder of a finished run or its {BUNDLE}/, or a weights file"
Prune = Callable[[nn.Module, str], None]


@dataclass(frozen=True)
class EarlierRun:
    """A bundle from which the backbone is taken."""

    folder: Path  # of the bundle
    name: str  # timm's name of the model
    features: str  # last or stages, see `TimmBackbone`
    input_config: dict[str, tuple[Any, ...]]  # input_size, mean and std, as in timm's pretrained_cfg
    split_fingerprint: str  # of the split that the run was trained on; "" if unknown

    @classmethod
    def open(cls, folder: Path) -> EarlierRun:
        """Open a run's folder or a bundle; raises LungtlError for other folders."""
        bundle = folder / BUNDLE if (folder / BUNDLE).is_dir() else folder
        for file_name in (CONFIG, WEIGHTS):
            if not (bundle / file_name).is_file():
                raise LungtlError(f"backbone.weights={folder} has no {file_name}; {EXPECTED}")
        try:
            config = json.loads((bundle / CONFIG).read_text())
            if config["format"] != FORMAT:
                raise LungtlError(f"{bundle} has bundle format {config['format']}, this lungtl reads {FORMAT}")
            backbone, image = config["backbone"], config["preprocessing"]
            input_config = {
                "input_size": (len(image["mean"]), int(image["size"]), int(image["size"])),
                "mean": tuple(image["mean"]),
                "std": tuple(image["std"]),
            }
            split = str(config["provenance"].get("split_fingerprint", ""))
            return cls(bundle, str(backbone["name"]), str(backbone["features"]), input_config, split)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise LungtlError(f"{bundle} is not a readable bundle ({first_line(error)}); {EXPECTED}") from error

    @property
    def pruned(self) -> bool:
        """Whether the layers behind the last stage are missing."""
        return self.features != "last"

    def shape(self, model: nn.Module, name: str, prune: Prune | None) -> None:
        """Give a new network the earlier run's architecture; raises LungtlError if the two do not match."""
        earlier, requested = self.name.partition(".")[0], name.partition(".")[0]
        if earlier != requested:
            raise LungtlError(f"{self.folder} contains {earlier}, not {requested}; use backbone.name={self.name}")
        net: Any = model
        if hasattr(net, "set_input_size"):
            net.set_input_size(img_size=self.input_config["input_size"][1:])
        net.pretrained_cfg |= self.input_config
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
        tensors = {key.removeprefix(PREFIX): value for key, value in read_file(path).items() if key.startswith(PREFIX)}
        return tensors, LoadedWeights("bundle", self.name, path.name, sha256(path), self.split_fingerprint)
