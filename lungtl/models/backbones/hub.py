"""timm's weights from the Hugging Face hub or its local cache."""

from __future__ import annotations

import logging
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
from huggingface_hub import constants, try_to_load_from_cache
from torch import Tensor

from lungtl.models.backbones.base import LoadedWeights
from lungtl.settings.errors import LungtlError, first_line
from lungtl.sources.base import sha256

log = logging.getLogger(__name__)
ALTERNATIVES = (
    "use backbone=efficientnet_lite0 (its weights are installed), backbone.weights=FILE.safetensors, "
    "or backbone.weights=none (random)"
)
PROBE_SECONDS = 5
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in the order in which timm looks for them


def hub_problem() -> OSError | None:
    """Why the hub cannot be reached; None if it can."""
    try:
        urllib.request.urlopen(constants.ENDPOINT, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:  # also an answer
        return None
    except OSError as error:
        return error
    return None


def hub_file(name: str) -> Path | None:
    """A model's weights in the hub's local cache; None if they were never downloaded."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        return None
    repository, _, revision = config.hf_hub_id.partition("@")
    for file_name in (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES:
        found = try_to_load_from_cache(repository, file_name, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def from_hub(name: str, in_chans: int) -> tuple[dict[str, Tensor], LoadedWeights]:
    """Load weights, downloading them if needed; raises LungtlError if that fails or the file is damaged."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise LungtlError(f"timm has no weights for {name}; use backbone.weights=FILE.safetensors or none (random)")
    with _hub_client():
        try:
            # with the classifier of the weights: only then does timm load strictly
            whole = timm.create_model(name, pretrained=True, num_classes=config.num_classes, in_chans=in_chans)
        except Exception as error:  # the hub's clients raise many types
            path, reason = hub_file(name), first_line(error)
            if path is not None:
                problem = f"the downloaded weights of {name} are unusable ({reason})"
                raise LungtlError(f"{problem}; delete {path} and try again") from error
            raise LungtlError(f"could not download the weights of {name} ({reason}); {ALTERNATIVES}") from error
    return whole.state_dict(), _hub_origin(name, str(config.hf_hub_id or config.url))


def _hub_origin(name: str, location: str) -> LoadedWeights:
    path = hub_file(name)
    if path is None:
        return LoadedWeights("hub", location)
    found = sha256(path)
    published = path.resolve().name  # large files are stored under the SHA-256 that the hub announced
    if re.fullmatch("[0-9a-f]{64}", published) and published != found:
        problem = f"the downloaded weights of {name} do not match their checksum"
        raise LungtlError(f"{problem}; delete {path.resolve()} and try again")
    return LoadedWeights("hub", f"{location.partition('@')[0]}@{path.parent.name}", path.name, found)


@contextmanager
def _hub_client() -> Iterator[None]:
    """Disable telemetry, and network access if the hub is unreachable (the client would retry for a minute)."""
    before = constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY
    constants.HF_HUB_DISABLE_TELEMETRY = True  # the environment was read when timm imported it
    if hub_problem() is not None:
        log.info("%s is unreachable; looking for downloaded weights only", constants.ENDPOINT)
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY = before
