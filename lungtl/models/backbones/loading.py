"""Read a state dict and load it into a network, strictly except for the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv, load_state_dict
from torch import Tensor, nn

from lungtl.settings.errors import LungtlError

ALTERNATIVES = (
    "use backbone=efficientnet_lite0 (its weights are installed), backbone.weights=FILE.safetensors, "
    "or backbone.weights=none (random)"
)
MAX_NAMES = 3  # of each kind that the error of a mismatched state dict lists


def read_file(path: Path) -> dict[str, Tensor]:
    """Read a timm state dict from a .safetensors, .pth, .pt or .bin file; raises LungtlError if that fails."""
    if not path.is_file():
        raise LungtlError(
            f"backbone.weights={path} is neither auto, hub, wheel, none, nor an existing file or run; {ALTERNATIVES}"
        )
    try:
        state_dict: dict[str, Tensor] = load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # torch and safetensors raise many types
        raise LungtlError(
            f"{path} is not a readable state dict ({first_line(error)}); expected a timm .safetensors or .pth"
        ) from error
    return state_dict


def fill(model: nn.Module, state_dict: dict[str, Tensor], name: str, source: str, in_chans: int) -> None:
    """Load a state dict strictly, except for the classifier; raises LungtlError naming the first mismatches."""
    expected = model.state_dict()
    with torch.device("meta"):  # only the names are needed
        classifier = timm.create_model(name, pretrained=False, num_classes=1000).state_dict().keys() - expected.keys()
    given = {key: value for key, value in state_dict.items() if key not in classifier}
    if in_chans != 3:
        _adapt_channels(model, given, in_chans)
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    reshaped = sorted(k for k in expected.keys() & given.keys() if expected[k].shape != given[k].shape)
    if missing or unexpected or reshaped:
        parts = [
            f"{len(names)} {kind} ({', '.join(names[:MAX_NAMES])}{', ...' if len(names) > MAX_NAMES else ''})"
            for kind, names in (("missing", missing), ("unexpected", unexpected), ("of different shape", reshaped))
            if names
        ]
        raise LungtlError(f"{source} does not match {name}: {', '.join(parts)}; check backbone.name")
    model.load_state_dict(given)


def _adapt_channels(model: nn.Module, state_dict: dict[str, Tensor], in_chans: int) -> None:
    """Adapt the first convolutions of an RGB state dict to another number of input channels."""
    config: Any = model.pretrained_cfg
    first = config.get("first_conv") or ()
    for convolution in (first,) if isinstance(first, str) else first:
        weight = state_dict.get(f"{convolution}.weight")
        if weight is not None and weight.ndim == 4 and weight.shape[1] == 3:
            state_dict[f"{convolution}.weight"] = adapt_input_conv(in_chans, weight)


def first_line(error: Exception) -> str:
    """First line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
