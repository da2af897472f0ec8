"""The random backbone of the untrained control, and the statistics of its batch norms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.attention import Attention
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.slice_projection import SliceProjection, Standardise
from lungtl.training import untrained
from lungtl.training.untrained import SEED, draw_classifier, fixed_seed, set_noise_statistics
from tests.models.tiny import WIDTH, tiny_backbone


def chests(count: int, size: int) -> Tensor:
    """int16 [count, 1, size, size], HU: a body with two lungs and a nodule, all of random size and place, and noise."""
    generator = torch.Generator().manual_seed(5)
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    frames = []
    for _ in range(count):
        hu = torch.full((size, size), -1000.0)
        for centre_x, radius, value in ((0, 0.9, 40), (-0.4, 0.35, -850), (0.4, 0.35, -850), (0.4, 0.1, 30)):
            dx, dy, scale = (torch.rand(3, generator=generator) - 0.5).tolist()
            inside = (x - centre_x - 0.3 * dx) ** 2 + (y - 0.3 * dy) ** 2 < (radius * (1 + 0.6 * scale)) ** 2
            hu[inside] = value
        frames.append(hu + 30 * torch.randn(size, size, generator=generator))
    return torch.stack(frames)[:, None].to(torch.int16)


def spread(backbone: TimmBackbone, size: int) -> float:
    """The share of components whose standard deviation over slices `Standardise` can bring near 1."""
    preprocessor = SlicePreprocessor(
        [(-600, 1500), (40, 400), (0, 2000)], False, size, None, backbone.mean, backbone.std
    )
    with torch.no_grad():
        embeddings = backbone.eval()(preprocessor(chests(32, size))).double()
    standardised = Standardise(backbone.dim).double()(embeddings)
    return float((standardised.std(dim=0) > 0.5).double().mean())


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "efficientnet_b0",
        "mobilenetv3_large_100",
        "tf_efficientnet_lite0",
        *[pytest.param(name, marks=pytest.mark.exhaustive) for name in ("densenet121", "regnety_032")],
    ],
)
def test_a_random_backbone_distinguishes_slices(name: str) -> None:
    with fixed_seed():
        backbone = TimmBackbone(name, weights="none").eval()
    set_noise_statistics(backbone, 64)
    assert not any(module.training for module in backbone.modules())
    assert spread(backbone, 64) > 0.9


def test_with_the_statistics_of_a_new_network_it_would_not() -> None:
    with fixed_seed():
        assert spread(TimmBackbone("efficientnet_b0", weights="none"), 64) == 0


def test_batch_norms_have_the_statistics_of_their_own_input() -> None:
    backbone = tiny_backbone()
    set_noise_statistics(backbone, 32)
    noise = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(SEED))
    seen: list[Tensor] = []
    norm = next(module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))
    norm.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        backbone(noise)
    torch.testing.assert_close(norm.running_mean, seen[0].mean(dim=(0, 2, 3)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(norm.running_var, seen[0].var(dim=(0, 2, 3)), atol=1e-6, rtol=1e-5)


def test_the_statistics_do_not_depend_on_the_number_of_threads() -> None:
    """Otherwise their features would be computed again whenever it changes; in float32 they would depend on it."""
    threads, statistics = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with fixed_seed():
                backbone = TimmBackbone("test_resnet", weights="none").eval()
            set_noise_statistics(backbone, 64)
            statistics.append(torch.cat([buffer for name, buffer in backbone.named_buffers() if "running_" in name]))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(*statistics, rtol=1e-6, atol=1e-7)


def test_a_backbone_without_batch_norm_is_unchanged() -> None:
    backbone = tiny_backbone(name="test_vit", size=64)
    before = backbone.fingerprint()
    set_noise_statistics(backbone, 64)
    assert backbone.fingerprint() == before


def test_the_fingerprint_does_not_depend_on_the_last_digits_of_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    first = draw_classifier(tiny_random)[1]

    def elsewhere(backbone: TimmBackbone, size: int) -> None:
        set_noise_statistics(backbone, size)
        for key, buffer in backbone.named_buffers():
            if key.endswith("running_mean"):
                buffer += 1e-6

    monkeypatch.setattr(untrained, "set_noise_statistics", elsewhere)
    assert draw_classifier(tiny_random)[1] == first


def tiny_random() -> BagClassifier:
    backbone = TimmBackbone("test_resnet", weights="none")
    preprocessor = SlicePreprocessor([(-600, 1500)], False, 32, None, backbone.mean, backbone.std)
    return BagClassifier(preprocessor, backbone, SliceProjection(backbone.dim, WIDTH, 0.0), Attention(WIDTH))
