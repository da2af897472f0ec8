from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.max import Max
from lungtl.models.aggregators.mean import Mean
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.gradcam import slice_heatmaps
from lungtl.models.slice_projection import SliceProjection
from lungtl.settings.errors import LungtlError
from tests.models.tiny import WIDTH, noise_frames, tiny_classifier

DARK, BRIGHT = -1000, 0  # HU: the ends of the hand-made network's window


class HandNet(nn.Module):
    """Two maps, brightness and darkness, each cell the mean of a patch."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 2, patch, stride=patch)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        with torch.no_grad():
            brightness = torch.full_like(self.maps.weight[0], 1 / (3 * patch**2))
            self.maps.weight.copy_(torch.stack([brightness, -brightness]))
            self.maps.bias = nn.Parameter(torch.tensor([0.0, 1.0]))

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.global_pool(self.maps(images)).flatten(1)
        return pooled


class HandBackbone(TimmBackbone):
    def __init__(self, net: nn.Module) -> None:
        nn.Module.__init__(self)
        self.name, self.features, self.dim, self.net = "hand-made", "last", 2, net

    def blocks(self) -> list[Any]:
        return []


def hand_classifier(size: int, patch: int = 1, crop: int | None = None) -> BagClassifier:
    """logit = mean over slices of 2 brightness - darkness, over sqrt(1 + eps) from the projection."""
    preprocessor = SlicePreprocessor([((DARK + BRIGHT) / 2, BRIGHT - DARK)], False, size, crop, [0.0] * 3, [1.0] * 3)
    classifier = BagClassifier(preprocessor, HandBackbone(HandNet(patch)), SliceProjection(2, 2, 0.0), Mean(2))
    with torch.no_grad():
        assert classifier.projection.linear is not None
        classifier.projection.linear.weight.copy_(torch.eye(2))
        classifier.projection.linear.bias.zero_()
        assert isinstance(classifier.aggregator, Mean)
        assert classifier.aggregator.classifier is not None
        classifier.aggregator.classifier.weight.copy_(torch.tensor([[2.0, -1.0]]))
    return classifier.eval()


def brightness(frames: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = ((frames[:, 0].float() - DARK) / (BRIGHT - DARK)).numpy()
    return values


def test_the_map_is_that_computed_by_hand() -> None:
    frames = torch.randint(DARK, BRIGHT, (5, 1, 6, 6), dtype=torch.int16, generator=torch.Generator().manual_seed(1))
    bright = brightness(frames)
    gain = 1 / (5 * 36 * np.sqrt(1 + 1e-5))  # slices, cells, the standardisation's epsilon
    by_hand = np.maximum(2 * bright - (1 - bright), 0) * gain
    maps = slice_heatmaps(hand_classifier(size=6), frames, [3, 0])
    assert (maps > 0).any()
    assert (maps == 0).any()
    np.testing.assert_allclose(maps, by_hand[[3, 0]], atol=1e-7)


def test_the_map_peaks_in_the_bright_square_of_a_slice_that_is_cropped_and_resized() -> None:
    frames = torch.full((1, 1, 80, 100), DARK, dtype=torch.int16)
    frames[0, 0, 48:56, 34:42] = BRIGHT  # a cell of the maps: 8 pixels, the first at (16, 26)
    (heat,) = slice_heatmaps(hand_classifier(size=24, patch=4, crop=48), frames, [0])
    assert heat.shape == (80, 100)
    hot = np.argwhere(heat > 0.99 * heat.max())
    np.testing.assert_allclose(hot.mean(axis=0), [51.5, 37.5], atol=0.5)
    assert heat[48:56, 34:42].sum() > 0.4 * heat.sum()


def test_the_heatmap_covers_exactly_the_crop() -> None:
    classifier = hand_classifier(size=12, crop=24)
    frames = torch.full((1, 1, 41, 48), BRIGHT, dtype=torch.int16)
    (heat,) = slice_heatmaps(classifier, frames, [0])
    seen = np.zeros((41, 48), dtype=bool)
    for row, column in np.ndindex(41, 48):
        darker = frames.clone()
        darker[0, 0, row, column] = DARK
        seen[row, column] = not torch.equal(classifier.preprocessor(darker), classifier.preprocessor(frames))
    np.testing.assert_array_equal(heat > 0, seen)


def by_autograd(classifier: BagClassifier, frames: Tensor, layer: nn.Module, index: int) -> Tensor:
    """Activations and gradients of one slice at a layer, from a plain backward pass: [2, ...]."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    handle = layer.register_forward_hook(keep)
    classifier.requires_grad_(True)([frames]).bag_logits.sum().backward()
    handle.remove()
    classifier.zero_grad()
    assert kept[0].grad is not None
    return torch.stack([kept[0], kept[0].grad])[:, index].detach()


@pytest.mark.parametrize(
    ("name", "layer"), [("test_resnet", "layer4"), ("test_efficientnet", "bn2"), ("test_convnext", "norm_pre")]
)
def test_the_map_of_a_timm_network_is_the_formula(name: str, layer: str) -> None:
    classifier = tiny_classifier(seed=1, name=name, size=96)
    frames = noise_frames(4, size=96)
    maps, gradients = by_autograd(classifier, frames, classifier.backbone.get_submodule(f"net.{layer}"), index=2)
    expected = F.relu((gradients.mean(dim=(1, 2), keepdim=True) * maps).sum(dim=0))
    assert expected.max() > 0
    upsampled = F.interpolate(expected[None, None], (96, 96), mode="bilinear")[0, 0]
    np.testing.assert_allclose(slice_heatmaps(classifier, frames, [0, 2])[1], upsampled, rtol=1e-3, atol=1e-7)


def test_the_map_of_a_vision_transformer_lays_its_patch_tokens_out() -> None:
    classifier = tiny_classifier(name="test_vit", size=64)
    frames = noise_frames(3, size=64)
    net: Any = classifier.backbone.net
    tokens, gradients = by_autograd(classifier, frames, net.blocks[-1].norm1, index=1)
    assert net.num_prefix_tokens == 1
    cells = F.relu((gradients[1:].mean(dim=0) * tokens[1:]).sum(dim=1)).reshape(1, 1, 4, 4)  # row by row
    assert cells.max() > 0
    upsampled = F.interpolate(cells, (64, 64), mode="bilinear")[0, 0]
    np.testing.assert_allclose(slice_heatmaps(classifier, frames, [1])[0], upsampled, rtol=1e-3, atol=1e-7)


def test_a_network_of_channels_last_maps_is_the_formula() -> None:
    classifier = tiny_classifier(name="swin_tiny_patch4_window7_224", size=64)
    frames = noise_frames(2, size=64)
    maps, gradients = by_autograd(classifier, frames, classifier.backbone.get_submodule("net.norm"), index=0)
    expected = F.relu((gradients.mean(dim=(0, 1)) * maps).sum(dim=2))
    upsampled = F.interpolate(expected[None, None], (64, 64), mode="bilinear")[0, 0]
    np.testing.assert_allclose(slice_heatmaps(classifier, frames, [0])[0], upsampled, rtol=1e-3, atol=1e-7)


def test_stages_are_mapped_from_the_last_one() -> None:
    template = tiny_classifier(size=96)
    torch.manual_seed(1)
    backbone = TimmBackbone("test_resnet", weights="none", features="stages")
    projection = SliceProjection(backbone.dim, WIDTH, dropout=0.0)
    classifier = BagClassifier(template.preprocessor, backbone, projection, template.aggregator).eval()
    frames = noise_frames(2, size=96)
    maps, gradients = by_autograd(classifier, frames, backbone.net.get_submodule("layer4"), index=0)
    expected = F.relu((gradients.mean(dim=(1, 2), keepdim=True) * maps).sum(dim=0))
    assert expected.max() > 0
    upsampled = F.interpolate(expected[None, None], (96, 96), mode="bilinear")[0, 0]
    np.testing.assert_allclose(slice_heatmaps(classifier, frames, [0])[0], upsampled, rtol=1e-3, atol=1e-7)


def test_a_slice_of_weight_0_has_an_empty_map() -> None:
    torch.manual_seed(0)
    classifier = tiny_classifier(aggregator=Max(WIDTH), size=96)
    frames = noise_frames(4, size=96)
    winner = int(classifier([frames]).weights[0].argmax())
    loser = (winner + 1) % 4
    maps = slice_heatmaps(classifier, frames, [winner, loser])
    assert maps[0].max() > 0
    assert not maps[1].any()


def test_a_frozen_backbone_has_the_same_maps() -> None:
    classifier = tiny_classifier(size=64)
    frames = noise_frames(3, size=64)
    learning = slice_heatmaps(classifier, frames, [0, 1, 2])
    classifier.backbone.requires_grad_(False)
    np.testing.assert_allclose(slice_heatmaps(classifier, frames, [0, 1, 2]), learning, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("blocks", [None, 2])
def test_features_from_the_cache_give_the_same_maps(blocks: int | None) -> None:
    classifier = tiny_classifier(size=64)
    frames = noise_frames(3, size=64)
    expected = slice_heatmaps(classifier, frames, [1])
    if blocks is not None:
        classifier.cut(blocks)
    with torch.inference_mode():
        rows = classifier.split.prefix(classifier.preprocessor(frames))
        from_rows = slice_heatmaps(classifier, frames[[2, 1]], [2, 1], rows)[1:]
    np.testing.assert_allclose(from_rows, expected, rtol=1e-4, atol=1e-8)


def test_with_features_only_frames_of_the_mapped_slices_are_given() -> None:
    classifier = hand_classifier(6)
    with pytest.raises(LungtlError, match="3 frames for 1 indices"):
        slice_heatmaps(classifier, noise_frames(3, size=6), [1], torch.zeros(3, 2))


def test_the_classifier_is_unchanged() -> None:
    classifier = tiny_classifier(size=64).train()
    classifier.backbone.eval()
    next(classifier.backbone.parameters()).requires_grad_(False)
    classifier.slice_head.weight.grad = torch.ones_like(classifier.slice_head.weight)

    def state() -> list[Any]:
        parameters = [(p.requires_grad, None if p.grad is None else p.grad.sum()) for p in classifier.parameters()]
        hooks = [len(module._forward_hooks) for module in classifier.modules()]
        return [parameters, [module.training for module in classifier.modules()], hooks]

    before, weights = state(), {key: value.clone() for key, value in classifier.state_dict().items()}
    slice_heatmaps(classifier, noise_frames(2, size=64), [0])
    assert state() == before
    for key, value in classifier.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=0)


def test_without_captum_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(LungtlError, match=r"pip install 'lungtl\[explain\]'"):
        slice_heatmaps(hand_classifier(6), noise_frames(1, size=6), [0])


def test_a_network_whose_maps_are_not_found_is_refused_by_name() -> None:
    classifier = hand_classifier(6)
    net: Any = classifier.backbone.net
    net.pool = net.global_pool
    net.forward = lambda images: images.mean(dim=(2, 3))
    del net.global_pool
    with pytest.raises(LungtlError, match=r"hand-made: .* global_pool or head"):
        slice_heatmaps(classifier, noise_frames(1, size=6), [0])
