"""timm's own weights, from the Hugging Face hub or its local cache."""

from __future__ import annotations

import logging
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import timm
from torch import Tensor

from lungtl.models.backbones.loading import OTHER_WAYS, LoadedWeights, first_line
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import sha256

log = logging.getLogger(__name__)
PROBE_SECONDS = 5
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # in the order in which timm looks for them


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


def from_hub(name: str, in_chans: int) -> tuple[dict[str, Tensor], LoadedWeights]:
    """Download what the cache lacks; raises LungtlError where the weights cannot be had or are damaged."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise LungtlError(f"timm has no weights of {name}; use backbone.weights=FILE.safetensors or none (random)")
    with _hub_client():
        try:
            # with the classifier that the weights have: only then does timm load strictly
            whole = timm.create_model(name, pretrained=True, num_classes=config.num_classes, in_chans=in_chans)
        except Exception as error:  # the hub's clients raise many kinds; each means the same to the user
            path, reason = hub_file(name), first_line(error)
            if path is not None:
                raise LungtlError(
                    f"the downloaded weights of {name} cannot be used ({reason}); delete {path} and try again"
                ) from error
            raise LungtlError(f"the hub's weights of {name} cannot be had ({reason}); {OTHER_WAYS}") from error
    return whole.state_dict(), _hub_origin(name, str(config.hf_hub_id or config.url))


def _hub_origin(name: str, place: str) -> LoadedWeights:
    path = hub_file(name)
    if path is None:
        return LoadedWeights("hub", place)
    found = sha256(path)
    published = path.resolve().name  # the cache files large content under its SHA-256, as the hub announced it
    if re.fullmatch("[0-9a-f]{64}", published) and published != found:
        raise LungtlError(f"the downloaded weights of {name} were altered; delete {path.resolve()} and try again")
    return LoadedWeights("hub", f"{place.partition('@')[0]}@{path.parent.name}", path.name, found)


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
