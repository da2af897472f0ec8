"""Read a state dict, and fill a network with it: strictly, the classifier aside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models import adapt_input_conv, load_state_dict
from torch import Tensor, nn

from lungtl.settings.errors import LungtlError

OTHER_WAYS = (
    "use backbone=efficientnet_lite0 (its weights are installed), backbone.weights=FILE.safetensors, "
    "or backbone.weights=none (random)"
)


SHOWN = 3
"""Names of each kind in the error of a state dict that does not fit."""


@dataclass(frozen=True)
class LoadedWeights:
    """What a backbone was filled with; it names no folder of this machine.

    Attributes:
        source: the kind of place.
        origin: the hub's repository and commit, the package and version, or the model that the earlier run trained.
        file_name: of the file that was read; empty for none, and where timm reads from outside the hub.
        sha256: of that file.
        split_fingerprint: of the split that the earlier run was trained on, where its bundle tells: a run on another
            split may score patients that its weights were trained on.
    """

    source: Literal["hub", "wheel", "file", "bundle", "none"]
    origin: str = ""
    file_name: str = ""
    sha256: str = ""
    split_fingerprint: str = ""


def read_file(path: Path) -> dict[str, Tensor]:
    """A timm state dict from a .safetensors, .pth, .pt or .bin file; raises LungtlError where it is none."""
    if not path.is_file():
        raise LungtlError(f"backbone.weights={path} is neither auto, hub, wheel, none, a file nor a run; {OTHER_WAYS}")
    try:
        state_dict: dict[str, Tensor] = load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds; each means the same to the user
        raise LungtlError(
            f"{path} is no readable state dict ({first_line(error)}); wanted a timm .safetensors or .pth"
        ) from error
    return state_dict


def fill(model: nn.Module, state_dict: dict[str, Tensor], name: str, source: str, in_chans: int) -> None:
    """Load strictly, the classifier aside; raises LungtlError with the first names that do not fit."""
    expected = model.state_dict()
    with torch.device("meta"):  # asked for its names alone
        classifier = timm.create_model(name, pretrained=False, num_classes=1000).state_dict().keys() - expected.keys()
    given = {key: value for key, value in state_dict.items() if key not in classifier}
    if in_chans != 3:
        _adapt_channels(model, given, in_chans)
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    reshaped = sorted(k for k in expected.keys() & given.keys() if expected[k].shape != given[k].shape)
    if missing or unexpected or reshaped:
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
            for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
            if names
        ]
        raise LungtlError(f"{source} does not fit {name}: {', '.join(parts)}; check backbone.name")
    model.load_state_dict(given)


def _adapt_channels(model: nn.Module, state_dict: dict[str, Tensor], in_chans: int) -> None:
    """Give the first convolutions of an RGB state dict another number of input channels."""
    config: Any = model.pretrained_cfg
    first = config.get("first_conv") or ()
    for convolution in (first,) if isinstance(first, str) else first:
        weight = state_dict.get(f"{convolution}.weight")
        if weight is not None and weight.ndim == 4 and weight.shape[1] == 3:
            state_dict[f"{convolution}.weight"] = adapt_input_conv(in_chans, weight)


def first_line(error: Exception) -> str:
    """What an error says, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
