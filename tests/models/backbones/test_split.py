from __future__ import annotations

import copy
from functools import cache
from typing import Any, Literal
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from lungtl.models.backbones.split import BoundarySplit, CannotSplit, Split, split_backbone
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import set_train_mode

Kind = Literal["last", "stages"]
SIZES = {
    "tf_efficientnet_lite0": 64, "resnet18": 64, "convnext_atto": 64, "densenet121": 64,
    "vit_tiny_patch16_224": 32, "test_nfnet": 32, "regnetx_002": 64,
}  # fmt: skip
"""Height and width of the images of each network."""


def networks(*quick: tuple[str, Kind]) -> pytest.MarkDecorator:
    """All networks with both kinds of features; only the given ones are not `exhaustive`."""
    kinds: tuple[Kind, ...] = ("last", "stages")
    return pytest.mark.parametrize(
        ("name", "features"),
        [
            pytest.param(name, features, marks=[] if (name, features) in quick else pytest.mark.exhaustive)
            for name in SIZES
            for features in kinds
        ],
    )


def backbone_of(name: str, size: int, features: Kind) -> TimmBackbone:
    """Random weights, batch-norm statistics and scales unlike those of any batch, so that a wrong cut shows."""
    return copy.deepcopy(_built(name, size, features))


@cache
def _built(name: str, size: int, features: Kind) -> TimmBackbone:
    torch.manual_seed(0)
    backbone = TimmBackbone(name, "none", features)
    backbone.set_input_size(size)
    with torch.no_grad():
        for key, value in backbone.state_dict().items():
            if key.endswith("running_mean"):
                value.uniform_(-0.05, 0.05)
            elif key.endswith("running_var") or (value.ndim == 1 and key.endswith(("weight", "gamma"))):
                value.uniform_(0.5, 1.5)
    return backbone.eval()


def train_only(backbone: TimmBackbone, names: set[str]) -> None:
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in names)


def noise(size: int, count: int = 3, seed: int = 5) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def cuts(backbone: TimmBackbone) -> list[int]:
    """Behind the first block, before the last, and between: all of them for networks of stages."""
    count = len(backbone.blocks())
    return list(range(1, count)) if count < 8 else [1, count // 2, count - 2, count - 1]


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * max(1.0, float(b.detach().abs().max())))


@networks(
    ("tf_efficientnet_lite0", "last"), ("resnet18", "stages"), ("convnext_atto", "stages"),
    ("vit_tiny_patch16_224", "last"), ("test_nfnet", "last"), ("regnetx_002", "last"),
)  # fmt: skip
def test_prefix_and_suffix_reproduce_the_network(name: str, features: Kind) -> None:
    size = SIZES[name]
    backbone = backbone_of(name, size, features)
    images = noise(size)
    with torch.no_grad():
        whole = backbone(images)
        for blocks in cuts(backbone):
            split = split_backbone(backbone, blocks, size)
            rows = split.prefix(images)
            assert rows.shape == (3, split.width)
            close(split.suffix(rows), whole)
            close(split.suffix(rows[[2, 0]]), whole[[2, 0]])
        assert whole.std(dim=0).max() > 1e-3


@networks(("tf_efficientnet_lite0", "stages"), ("resnet18", "last"), ("vit_tiny_patch16_224", "last"))
def test_a_training_step_of_the_suffix_is_one_of_the_network(name: str, features: Kind) -> None:
    """Gradients and batch-norm statistics of exactly the blocks behind the cut."""
    size = SIZES[name]
    images = noise(size, 4)
    after = []
    for halves in (False, True):
        backbone = backbone_of(name, size, features)
        blocks = len(backbone.blocks()) - 2
        split = split_backbone(backbone, blocks, size)
        behind = {key for block in backbone.blocks()[blocks:] for key in block.parameters}
        train_only(backbone, behind)
        before = {key: value.clone() for key, value in backbone.state_dict().items()}
        with torch.no_grad():
            rows = split.prefix(images)
        set_train_mode(backbone)
        embeddings = split.suffix(rows) if halves else backbone(images)
        embeddings.square().mean().backward()
        assert {key for key, p in backbone.named_parameters() if p.grad is not None} == behind
        gradients = {key: p.grad.clone() for key, p in backbone.named_parameters() if p.grad is not None}
        state = backbone.state_dict()
        moved = {key: value.float() for key, value in state.items() if not torch.equal(value, before[key])}
        after.append((embeddings.detach(), {**gradients, **moved}, set(moved)))
    (expected, expected_changes, expected_moved), (found, changes, moved_keys) = after
    close(found, expected)
    assert moved_keys == expected_moved
    for key, value in expected_changes.items():
        torch.testing.assert_close(changes[key], value, rtol=1e-3, atol=1e-5 * max(1e-3, float(value.abs().max())))


def test_the_suffix_skips_frozen_modules() -> None:
    backbone = backbone_of("resnet18", 64, "stages")
    split = split_backbone(backbone, 3, 64)
    rows = split.prefix(noise(64))
    ran: list[str] = []

    def convolution(self: nn.Conv2d, x: Tensor) -> Tensor:
        ran.append(names[self])
        return torch.nn.functional.conv2d(x, self.weight, None, self.stride, self.padding)

    names = {module: key for key, module in backbone.net.named_modules()}
    with mock.patch.object(nn.Conv2d, "forward", convolution):
        split.suffix(rows)
    assert ran
    assert all(name.startswith(("layer3.", "layer4.")) for name in ran)


def test_a_row_is_the_input_of_the_boundary_and_the_pooled_stages_before_it() -> None:
    backbone = backbone_of("resnet18", 64, "stages")
    split = split_backbone(backbone, 4, 64)  # layer4 trains
    images = noise(64, 2)
    with torch.no_grad():
        row = split.prefix(images)
        maps: Any = backbone.net.forward_intermediates(images, intermediates_only=True)  # type: ignore[operator]
    layer2, layer3 = maps[2], maps[3]
    parts = [layer3.permute(0, 2, 3, 1).flatten(1), layer2.mean((2, 3)), layer2.amax((2, 3)), layer3.mean((2, 3)),
              layer3.amax((2, 3))]  # fmt: skip
    close(row, torch.cat(parts, dim=1))
    assert split.width == 4 * 4 * 256 + 2 * 128 + 2 * 256


def test_with_all_blocks_a_row_is_the_embedding() -> None:
    backbone = backbone_of("resnet18", 64, "last")
    split = split_backbone(backbone, 5, 64)
    assert split.whole
    assert (split.blocks, split.width) == (5, 512)
    rows = split.prefix(noise(64))
    assert torch.equal(rows, backbone(noise(64)))
    assert split.suffix(rows) is rows


def test_cutting_changes_neither_the_network_nor_the_random_state() -> None:
    backbone = backbone_of("resnet18", 64, "last")
    train_only(backbone, {"net.layer4.0.conv1.weight"})
    set_train_mode(backbone)
    modes = {key: module.training for key, module in backbone.named_modules()}
    before = copy.deepcopy(backbone.state_dict())
    state = torch.get_rng_state()
    split = split_backbone(backbone, 4, 64)
    split.suffix(split.prefix(noise(64)).detach())
    assert torch.equal(torch.get_rng_state(), state)
    after = backbone.state_dict()
    # layer4's batch norm is in training mode outside of the cut's own check
    assert {key for key in before if not torch.equal(before[key], after[key])} <= {
        key for key in before if key.startswith("net.layer4.") and ("running" in key or "tracked" in key)
    }
    assert {key: module.training for key, module in backbone.named_modules()} == modes
    assert [key for key, p in backbone.named_parameters() if p.requires_grad] == ["net.layer4.0.conv1.weight"]
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in backbone.modules())
    assert all("forward" not in vars(module) for module in backbone.modules())
    assert all(p.grad is None for p in backbone.parameters())


def test_prefix_and_suffix_share_the_parameters() -> None:
    backbone = backbone_of("resnet18", 64, "last")
    split = split_backbone(backbone, 4, 64)
    rows = split.prefix(noise(64))
    with torch.no_grad():
        backbone.get_parameter("net.layer4.1.bn2.weight").mul_(3)
        close(split.suffix(rows), backbone(noise(64)))


class Skipping(nn.Module):
    """A skip connection around the second and third block: no single tensor crosses the cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        joined: Tensor = self.third(self.second(x)) + x[..., 1:-1, 1:-1]
        return joined.mean((2, 3))

    def group_matcher(self, coarse: bool) -> dict[str, Any]:
        return {"stem": r"^first", "blocks": [(r"^second", (0,)), (r"^third", (1,))]}


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_skip_connection_around_the_boundary_is_refused(blocks: int) -> None:
    backbone = backbone_of("test_resnet", 32, "last")
    backbone.net, backbone.dim = Skipping().eval(), 4
    message = rf"test_resnet cannot be cut after block {blocks}: its two parts do not reproduce the network"
    with pytest.raises(CannotSplit, match=message):
        BoundarySplit(backbone, blocks, 32)
    assert all("forward" not in vars(module) for module in backbone.modules())


def test_without_the_skip_connection_it_is_cut() -> None:
    class Straight(Skipping):
        def forward(self, x: Tensor) -> Tensor:
            return self.third(self.second(self.first(x))).mean((2, 3))  # type: ignore[no-any-return]

    backbone = backbone_of("test_resnet", 32, "last")
    backbone.net, backbone.dim = Straight().eval(), 4
    assert BoundarySplit(backbone, 2, 32).width == 4 * 30 * 30


def test_the_error_names_why_a_network_of_several_branches_cannot_be_cut() -> None:
    backbone = backbone_of("hrnet_w18_small", 64, "last")
    with pytest.raises(CannotSplit, match=r"hrnet_w18_small cannot be cut after block 5: .* does not return a tensor"):
        BoundarySplit(backbone, 5, 64)
    with pytest.raises(CannotSplit, match="after block 3: its first training block does not take a single tensor"):
        BoundarySplit(backbone, 3, 64)


def test_replaced_modules_are_detected() -> None:
    backbone = backbone_of("resnet18", 64, "last")
    split = split_backbone(backbone, 4, 64)
    rows = split.prefix(noise(64))
    backbone.net.layer4 = copy.deepcopy(backbone.net.layer4)
    with pytest.raises(CannotSplit, match="its modules were replaced since; cut it again"):
        split.suffix(rows)


def test_an_uncut_backbone_is_whole() -> None:
    backbone = backbone_of("test_resnet", 32, "last")
    assert type(split_backbone(backbone, len(backbone.blocks()), 32)) is Split
