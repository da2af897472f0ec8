"""Weights from the hub, each in a process of its own: the hub's client reads its settings when it is imported."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from lungtl.models.backbones.timm_backbone import TimmBackbone
from tests.models.backbones.hub_stand_in import hub

NAME = "test_resnet.r160_in1k"
SCRIPT = """
import time
from lungtl.errors import LungtlError
from lungtl.models.backbones.timm_backbone import TimmBackbone
started = time.monotonic()
try:
    print(TimmBackbone({name!r}, weights="hub").fingerprint())
except LungtlError as error:
    print(error)
print(time.monotonic() - started)
"""


def ask(home: Path, endpoint: str, name: str = NAME) -> tuple[str, float]:
    """What a process that takes weights from the hub at `endpoint` prints, and its seconds."""
    environment = {k: v for k, v in os.environ.items() if k.lower() not in {"http_proxy", "https_proxy", "all_proxy"}}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(name=name)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    *answer, seconds = done.stdout.splitlines()
    return "\n".join(answer), float(seconds)


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
def test_the_weights_are_those_that_the_hub_serves_and_stay_when_it_is_gone(served: Path, tmp_path: Path) -> None:
    expected = TimmBackbone(NAME, weights=str(served)).fingerprint()
    with hub(f"timm/{NAME}", served) as (endpoint, requests):
        assert ask(tmp_path, endpoint)[0] == expected
        assert f"GET /timm/{NAME}/resolve/main/model.safetensors" in requests
    answer, seconds = ask(tmp_path, endpoint)
    assert answer == expected
    assert seconds < 10


def test_a_hub_that_cannot_be_reached_is_one_line_that_names_the_other_ways(tmp_path: Path) -> None:
    answer, seconds = ask(tmp_path, f"http://127.0.0.1:{closed_port()}")
    assert answer.startswith(f"the hub's weights of {NAME} cannot be had (")
    assert "\n" not in answer
    for way in ("backbone=efficientnet_lite0", "backbone.weights=FILE.safetensors", "backbone.weights=none"):
        assert way in answer
    assert seconds < 10


def test_a_model_that_the_hub_does_not_have(served: Path, tmp_path: Path) -> None:
    with hub("timm/another", served) as (endpoint, _):
        answer, _ = ask(tmp_path, endpoint)
    assert answer.startswith(f"the hub's weights of {NAME} cannot be had (")
    assert "\n" not in answer


def test_a_pretrained_tag_that_timm_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from lungtl.errors import LungtlError

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    offline = constants.HF_HUB_OFFLINE
    with pytest.raises(LungtlError, match=r"weights of test_resnet\.nonsense cannot be had \(.*nonsense"):
        TimmBackbone("test_resnet.nonsense", weights="hub")
    assert offline == constants.HF_HUB_OFFLINE
