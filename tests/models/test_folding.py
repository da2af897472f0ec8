"""Folded batch norms: same results, and the network is unchanged afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn

from lungtl.models.backbones.split import split_backbone
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.folding import folded
from lungtl.models.module_state import evaluation_mode, replaced_forward


def noise(size: int = 64, count: int = 3) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(7))


def with_statistics(network: nn.Module) -> nn.Module:
    """Batch norms that do something, alike at every call."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(generator=generator)
            assert module.running_var is not None
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.uniform_(module.bias, generator=generator)
    return network.eval()


def backbone(name: str) -> TimmBackbone:
    return deepcopy(_built(name))


@cache
def _built(name: str) -> TimmBackbone:
    torch.manual_seed(0)
    made = with_statistics(TimmBackbone(name, "none"))
    assert isinstance(made, TimmBackbone)
    return made


@pytest.fixture
def norms_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], int]:
    """How many batch norms a piece of work computes."""

    def count(work: Callable[[], object]) -> int:
        with monkeypatch.context() as patch:
            spy = Mock(wraps=nn.functional.batch_norm)
            patch.setattr(nn.functional, "batch_norm", spy)
            work()
        return spy.call_count

    return count


class Normed(nn.Module):
    """A convolution and a batch norm, and what is made of both."""

    def __init__(self, use: Callable[[Normed, Tensor], Tensor], norm: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.use = nn.Conv2d(3, 4, 3, bias=False), norm or nn.BatchNorm2d(4), use
        with_statistics(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.use(self, images)


def test_by_hand() -> None:
    network = Normed(lambda own, x: own.norm(own.conv(x)))
    nn.init.ones_(network.conv.weight)
    with folded(network, network, noise()):
        found = network.conv(torch.full((1, 3, 3, 3), 2.0)).flatten()
        passed_on = network.norm(torch.full((1, 4, 1, 1), 5.0))
    norm = network.norm
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    convolved = 3 * 3 * 3 * 2.0
    expected = (convolved - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(found, expected.detach())
    assert torch.equal(passed_on, torch.full((1, 4, 1, 1), 5.0))


@pytest.mark.parametrize(
    ("name", "before", "left"),
    [
        ("resnet18", 20, 0),
        ("tf_efficientnet_lite0", 49, 0),  # pads as TensorFlow does; norms with activation
        ("mobilenetv3_small_050", 34, 0),
        pytest.param("regnety_002", 44, 0, marks=pytest.mark.exhaustive),
        pytest.param("repvgg_a0", 61, 17, marks=pytest.mark.exhaustive),  # some norms read no convolution's output
        ("densenet121", 121, 62),  # most norms come before convolutions
        ("nf_regnet_b0", 54, 54),  # normalises its weights with the same function
        ("vit_tiny_patch16_224", 0, 0),
    ],
)
def test_networks_compute_the_same(
    name: str, before: int, left: int, norms_of: Callable[[Callable[[], object]], int]
) -> None:
    network, images = backbone(name), noise(224 if name.startswith("vit") else 64)
    with torch.inference_mode():
        expected = network(images)
        assert norms_of(lambda: network(images)) == before
        with folded(network, network, images[:2]):
            found = network(images)
            assert norms_of(lambda: network(images)) == left
        assert norms_of(lambda: network(images)) == before
        assert torch.equal(network(images), expected)
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) < 1e-5 * scale


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("resnet18", 1),
        ("tf_efficientnet_lite0", 4),
        *[
            pytest.param(name, trained, marks=pytest.mark.exhaustive)
            for name in ("resnet18", "tf_efficientnet_lite0", "densenet121")
            for trained in (1, 2, 4)
        ],
    ],
)
def test_rows_at_a_boundary_are_the_same(name: str, trained: int) -> None:
    network, images = backbone(name), noise()
    split = split_backbone(network, len(network.blocks()) - trained, 64)
    with torch.inference_mode():
        expected = split.prefix(images)
        with folded(network, split.prefix, images[:2]):
            found = split.prefix(images)
        with folded(network, split.prefix, images[:2]):  # what comes behind it goes through modules that are folded
            embeddings = split.suffix(found)
        whole = network(images)
    assert found.shape == (3, split.width)
    assert float((embeddings - whole).abs().max()) < 1e-5 * float(whole.abs().max())
    assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize(
    ("use", "norm"),
    [
        (lambda own, x: own.norm(own.conv(x)) + own.conv(x), None),
        (lambda own, x: own.norm(own.norm(own.conv(x))), None),
        (lambda own, x: own.norm(own.conv(x).relu()), None),
        (lambda own, x: own.norm(own.conv(x)), nn.BatchNorm2d(4, track_running_stats=False)),
        (lambda own, x: own.norm(own.conv(x)), nn.SyncBatchNorm(4)),
    ],
    ids=["convolution twice", "norm twice", "something between", "statistics of the batch", "another norm"],
)
def test_what_cannot_be_folded_is_unchanged(
    use: Callable[[Normed, Tensor], Tensor], norm: nn.Module | None, caplog: pytest.LogCaptureFixture
) -> None:
    network, images = Normed(use, norm), noise()
    with torch.inference_mode():
        expected = network(images)
        with folded(network, network, images), caplog.at_level(logging.INFO):
            assert torch.equal(network(images), expected)
    assert not caplog.messages


def test_a_convolution_with_another_reader_is_not_folded(caplog: pytest.LogCaptureFixture) -> None:
    def use(own: Normed, images: Tensor) -> Tensor:
        maps: Tensor = own.conv(images)
        normed: Tensor = own.norm(maps)
        return maps + normed

    network, images = Normed(use), noise()
    with torch.inference_mode(), caplog.at_level(logging.INFO):
        expected = network(images)
        with folded(network, network, images):
            assert torch.equal(network(images), expected)
    assert "not folded" in caplog.text


def test_folding_is_verified_behind_a_cut_too(caplog: pytest.LogCaptureFixture) -> None:
    network, images = backbone("resnet18"), noise()
    block: Any = network.get_submodule("net.layer4.1")
    split = split_backbone(network, len(network.blocks()) - 1, 64)
    own = type(block).forward

    def read_twice(maps: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = block.conv2.register_forward_hook(lambda module, args, output: seen.append(output))
        result: Tensor = own(block, maps)
        hook.remove()
        return result + seen[0]  # as if the convolution were read by something else too

    with torch.inference_mode(), replaced_forward(block, read_twice):
        rows, whole = split.prefix(images), network(images)
        with caplog.at_level(logging.INFO), split.folded(64):
            assert torch.equal(split.prefix(images), rows)
            assert torch.allclose(split.suffix(rows), whole, rtol=1e-4)
    assert "not folded" in caplog.text


def test_a_network_without_batch_norms_is_not_run() -> None:
    network = Mock(wraps=backbone("vit_tiny_patch16_224"))
    with folded(network, network, noise(224)):
        pass
    network.assert_not_called()


def test_folding_is_undone_after_an_error() -> None:
    network = backbone("resnet18")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    seen = []

    def work() -> None:
        with folded(network, network, noise()):
            seen.append("forward" in vars(network.get_submodule("net.conv1")))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == [True]
    assert not any("forward" in vars(module) for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_the_running_statistics_are_not_touched() -> None:
    network = backbone("resnet18").train()
    with evaluation_mode(network), folded(network, network, noise()):
        network(noise())
    assert all(module.training for module in network.modules())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked == 0
