"""Weights from the hub, each in a process of its own: the hub's client reads its settings when it is imported."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.backbones.weights import load_model
from lungtl.settings.errors import LungtlError
from tests.forked import Forks
from tests.models.backbones.hub_stand_in import COMMIT, hub

NAME = "test_resnet.r160_in1k"
Ask = Callable[..., list[str]]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """The lines that a process prints that takes weights from the hub at an endpoint: fingerprint and origin."""
    without_proxy = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    with Forks("lungtl.training", "torch", "torchvision", "safetensors.torch", environment=without_proxy) as forks:

        def ask(home: Path, endpoint: str, name: str = NAME) -> list[str]:
            client = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
            home.mkdir(exist_ok=True)
            done = forks.command("tests.models.backbones.hub_client", name, folder=home, environment=client)
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()

        yield ask


@pytest.fixture
def complaint(ask: Ask) -> Callable[..., str]:
    """The one line that such a process prints when it fails."""

    def complaint(*arguments: Any) -> str:
        lines = ask(*arguments)
        assert len(lines) == 1, lines
        return lines[0]

    return complaint


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(8)
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    save_file(timm.create_model(NAME, pretrained=False).state_dict(), path)
    return path


@pytest.mark.slow
def test_downloaded_weights_are_used_without_the_hub(served: Path, tmp_path: Path, ask: Ask) -> None:
    expected = TimmBackbone(NAME, weights=str(served)).fingerprint()
    with hub(f"timm/{NAME}", served) as (endpoint, requests):
        first = ask(tmp_path, endpoint)
    assert first[0] == expected
    assert json.loads(first[1]) == {
        "source": "hub",
        "origin": f"timm/{NAME}@{COMMIT}",
        "file_name": "model.safetensors",
        "sha256": hashlib.sha256(served.read_bytes()).hexdigest(),
        "split_fingerprint": "",
    }
    downloads = [line for line in requests if line.startswith(f"GET /timm/{NAME}/resolve/main/model.safetensors ")]
    assert len(downloads) == 1
    assert not any("torch/" in line for line in requests)  # what the client tells of this machine as telemetry
    assert ask(tmp_path, endpoint) == first


@pytest.mark.slow
def test_an_interrupted_download_can_be_repeated(
    served: Path, tmp_path: Path, ask: Ask, complaint: Callable[..., str]
) -> None:
    with hub(f"timm/{NAME}", served, hangs_up=True) as (endpoint, _):
        message = complaint(tmp_path, endpoint)
    assert message.startswith(f"could not download the weights of {NAME} (")
    assert "backbone.weights=FILE.safetensors" in message
    with hub(f"timm/{NAME}", served) as (endpoint, _):
        assert ask(tmp_path, endpoint)[0] == TimmBackbone(NAME, weights=str(served)).fingerprint()


@pytest.mark.slow
def test_half_a_file_on_the_hub_is_damaged(served: Path, tmp_path: Path, complaint: Callable[..., str]) -> None:
    half = tmp_path / "half.safetensors"
    half.write_bytes(served.read_bytes()[: served.stat().st_size // 2])
    with hub(f"timm/{NAME}", half) as (endpoint, _):
        message = complaint(tmp_path / "home", endpoint)
    assert message.startswith(f"the downloaded weights of {NAME} are unusable (")
    assert message.endswith("model.safetensors and try again")


@pytest.mark.slow
def test_a_file_with_another_checksum_than_announced_is_refused(
    served: Path, tmp_path: Path, complaint: Callable[..., str]
) -> None:
    with hub(f"timm/{NAME}", served, published="0" * 64) as (endpoint, _):
        message = complaint(tmp_path, endpoint)
    assert NAME in message
    assert "checksum; delete " in message


@pytest.mark.slow
def test_a_missing_tensor_is_an_error(served: Path, tmp_path: Path, complaint: Callable[..., str]) -> None:
    tensors = load_file(served)
    del tensors["layer1.0.conv1.weight"]
    save_file(tensors, tmp_path / "partial.safetensors")
    with hub(f"timm/{NAME}", tmp_path / "partial.safetensors") as (endpoint, _):
        message = complaint(tmp_path / "home", endpoint)
    assert message.startswith(f"the downloaded weights of {NAME} are unusable (")


def test_an_unreachable_hub_is_one_line_with_alternatives(tmp_path: Path, complaint: Callable[..., str]) -> None:
    message = complaint(tmp_path, f"http://127.0.0.1:{closed_port()}")
    assert message.startswith(f"could not download the weights of {NAME} (")
    for way in ("backbone=efficientnet_lite0", "backbone.weights=FILE.safetensors", "backbone.weights=none"):
        assert way in message


def test_a_model_missing_on_the_hub(served: Path, tmp_path: Path, complaint: Callable[..., str]) -> None:
    with hub("timm/another", served) as (endpoint, _):
        message = complaint(tmp_path, endpoint)
    assert message.startswith(f"could not download the weights of {NAME} (")


def test_a_model_without_pretrained_weights() -> None:
    with pytest.raises(LungtlError, match=r"timm has no weights for botnet50ts_256; use backbone\.weights=FILE"):
        load_model("botnet50ts_256", "hub")


def test_the_hub_clients_settings_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "nowhere")
    before = constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY
    with pytest.raises(LungtlError):
        load_model(NAME, "hub")
    assert before == (constants.HF_HUB_OFFLINE, constants.HF_HUB_DISABLE_TELEMETRY)
