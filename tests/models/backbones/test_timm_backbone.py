from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import torch

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.settings import parts
from lungtl.settings.errors import UsageError
from tests.models.tiny import tiny_backbone

ARCHITECTURES = [
    "test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_nfnet", "test_byobnet", "resnet18",
    "tf_efficientnet_lite0", "mobilenetv3_small_050", "regnetx_002",
]  # fmt: skip


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_is_in_one_block(name: str) -> None:
    backbone = TimmBackbone(name, weights="none")
    held = list(chain.from_iterable(block.parameters for block in backbone.blocks()))
    assert sorted(held) == sorted(key for key, _ in backbone.named_parameters())
    assert all(block.parameters for block in backbone.blocks())


def test_blocks_run_from_the_input_to_the_output() -> None:
    blocks = TimmBackbone("resnet18", weights="none").blocks()
    assert [block.name for block in blocks[1:]] == [f"layer{i}.0 .. layer{i}.1" for i in range(1, 5)]
    assert "net.conv1.weight" in blocks[0].parameters


def test_blocks_of_networks_without_timm_groups() -> None:
    backbone = TimmBackbone("poolformer_s12", weights="none")
    # the normalisation that its head begins with counts to the last stage
    assert [block.name for block in backbone.blocks()] == [
        "stem", "stages.0", "stages.1", "stages.2", "head .. stages.3"
    ]  # fmt: skip
    held = [name for block in backbone.blocks() for name in block.parameters]
    assert held == [name for name, _ in backbone.named_parameters()]


@pytest.mark.parametrize(("name", "dim"), [("test_resnet", 96), ("mobilenetv3_small_050", 1024), ("resnet18", 512)])
def test_dim_is_the_size_of_the_embedding(name: str, dim: int) -> None:
    backbone = TimmBackbone(name, weights="none").eval()
    assert backbone.dim == dim
    assert backbone(torch.zeros(2, 3, 64, 64)).shape == (2, dim)


def test_mean_std_and_size_are_those_of_timm() -> None:
    resnet, lite = TimmBackbone("resnet18", "none"), TimmBackbone("tf_efficientnet_lite0", "none")
    assert resnet.mean == pytest.approx((0.485, 0.456, 0.406))
    assert resnet.std == pytest.approx((0.229, 0.224, 0.225))
    assert lite.mean == lite.std == (0.5, 0.5, 0.5)
    assert (resnet.input_size, lite.input_size, TimmBackbone("test_resnet", "none").input_size) == (224, 224, 160)


SPEC = {parts.TARGET: f"{TimmBackbone.__module__}.TimmBackbone", "name": "test_resnet", "weights": "none"}


def checked(spec: dict[str, Any]) -> TimmBackbone:
    parts.check(spec, "backbone", frozenset({"in_chans"}))
    backbone: TimmBackbone = parts.build(spec)
    return backbone


def test_mean_and_std_may_be_given() -> None:
    one = TimmBackbone("test_resnet", "none", mean=[0], std=[1])
    assert (one.mean, one.std) == ((0, 0, 0), (1, 1, 1))
    assert checked({**SPEC, "mean": ["0.5"]}).mean == (0.5, 0.5, 0.5)
    each = TimmBackbone("test_resnet", "none", mean=[0.1, 0.2, 0.3])
    assert (each.mean, each.std) == ((0.1, 0.2, 0.3), TimmBackbone("test_resnet", "none").std)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": [0, 1]}, r"backbone\.mean=\[0, 1\]: expected 1 or 3 numbers"),
        ({"mean": 0}, r"backbone\.mean=0: input should be a valid list"),
        ({"mean": [float("nan")]}, r"backbone\.mean=nan: input should be"),
        ({"std": [float("inf")]}, r"backbone\.std=inf: input should be less than or equal to 1"),
        ({"std": [1, 0, 1]}, r"backbone\.std=0: input should be greater than 0"),
        ({"std": ["x"]}, r"backbone\.std=x: input should be a valid number"),
    ],
)
def test_a_mean_or_std_that_does_not_fit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked({**SPEC, **given})


def test_a_backbone_is_deterministic_and_sees_slices_one_by_one() -> None:
    backbone = tiny_backbone().eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, alone = backbone(images), torch.cat([backbone(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert together.std(dim=0).max() > 0.01  # and it sees something


def test_position_embeddings_follow_the_image_size() -> None:
    backbone = TimmBackbone("vit_tiny_patch16_224", weights="none").eval()
    with pytest.raises(AssertionError):
        backbone(torch.zeros(1, 3, 64, 64))
    backbone.set_input_size(64)
    assert backbone(torch.zeros(1, 3, 64, 64)).shape == (1, backbone.dim)


def test_a_network_without_position_embeddings_takes_any_size() -> None:
    backbone = tiny_backbone()
    before = backbone.fingerprint()
    backbone.set_input_size(48)
    assert backbone.fingerprint() == before


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("resnet81", "resnet18"),
        ("tf_eficientnet_lite0.in1k", "tf_efficientnet_lite0"),
        ("convnxt_tiny", "convnext_tiny"),
    ],
)
def test_an_unknown_model_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(UsageError, match=rf"backbone\.name={wrong} is not a timm model; did you mean {right}\?"):
        TimmBackbone(wrong, weights="none")


def test_the_fingerprint_is_that_of_the_weights() -> None:
    assert tiny_backbone(0).fingerprint() == tiny_backbone(0).fingerprint()
    assert tiny_backbone(0).fingerprint() != tiny_backbone(1).fingerprint()


@pytest.mark.parametrize("part", ["net.conv1.0.weight", "net.bn1.bias", "net.bn1.running_mean"])
def test_the_smallest_change_of_any_weight_or_statistic_shows(part: str) -> None:
    backbone = tiny_backbone()
    before = backbone.fingerprint()
    value = backbone.state_dict()[part]
    last = (-1,) * value.ndim
    value[last] = torch.nextafter(value[last], torch.tensor(9.0))
    assert backbone.fingerprint() != before


def test_the_fingerprint_does_not_depend_on_what_trains() -> None:
    backbone = tiny_backbone()
    before = backbone.fingerprint()
    backbone.train().requires_grad_(False)
    assert backbone.fingerprint() == before


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "vit_tiny_patch16_224"])
def test_stages_are_the_mean_and_maximum_of_the_last_three_maps(name: str) -> None:
    backbone = TimmBackbone(name, "none", features="stages")
    backbone.set_input_size(64)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        embedding = backbone(images)
        maps = backbone.net.forward_intermediates(images, intermediates_only=True)[-3:]  # type: ignore[operator]
    expected = [v for m in maps for v in (m.flatten(2).mean(2), m.flatten(2).max(2).values)]
    assert torch.allclose(embedding, torch.cat(expected, dim=1), atol=1e-5)
    assert embedding.shape == (2, backbone.dim)


@pytest.mark.parametrize("name", ["convnext_atto", "densenet121", "swin_tiny_patch4_window7_224"])
def test_a_final_normalisation_belongs_to_the_last_block(name: str) -> None:
    backbone = TimmBackbone(name, "none")
    parameters = dict(backbone.named_parameters())
    assert any(parameters[n].ndim > 1 for n in backbone.blocks()[-1].parameters)


def test_a_one_channel_backbone_equals_three_equal_channels() -> None:
    grey = TimmBackbone("tf_efficientnet_lite0", "wheel", in_chans=1).eval()
    rgb = TimmBackbone("tf_efficientnet_lite0", "wheel").eval()
    assert grey.mean == rgb.mean[:1]  # so that both see the same values
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(grey(images), rgb(images.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


def test_other_channels_share_the_mean_of_the_three() -> None:
    backbone = TimmBackbone("resnet18", "none", in_chans=5)
    assert backbone.mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3] * 5)
    assert backbone.std == pytest.approx([(0.229 + 0.224 + 0.225) / 3] * 5)
    assert backbone.eval()(torch.zeros(1, 5, 64, 64)).shape == (1, 512)
