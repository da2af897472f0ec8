"""What trains and what does not, after real steps of the optimiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lungtl.config import OptimizerConfig
from lungtl.errors import UsageError
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, set_train_mode
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.full import Full
from lungtl.models.freezing.last_blocks import LastBlocks
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from tests.models.tiny import noise_batch, tiny_backbone, tiny_classifier

NETWORKS = ["tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224"]
BLOCKS = {"tf_efficientnet_lite0": 8, "resnet18": 5, "vit_tiny_patch16_224": 13}
LAST_TWO = {
    "tf_efficientnet_lite0": ("net.blocks.5.", "net.blocks.6.", "net.conv_head.", "net.bn2."),
    "resnet18": ("net.layer3.", "net.layer4."),
    "vit_tiny_patch16_224": ("net.blocks.10.", "net.blocks.11.", "net.norm."),
}
ADAMW = OptimizerConfig(name="adamw", lr=1e-2, weight_decay=0.01, momentum=0.9, schedule="constant", warmup_epochs=0)


def step(name: str, freezing: FreezingStrategy, steps: int = 2) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The backbone's parameters and buffers before and after a few steps of the optimiser."""
    module = BagModule(tiny_classifier(name=name), freezing, BagAndSliceLoss(), ADAMW, 1, augment=False)
    backbone = module.classifier.backbone
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    module.train()
    optimizer: torch.optim.Optimizer = module.configure_optimizers()["optimizer"]
    batch = noise_batch()
    for _ in range(steps):
        output = module(batch)
        module.loss(output, batch.bag_labels, batch.slice_labels)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return before, backbone.state_dict()


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}


@pytest.mark.parametrize("name", NETWORKS)
def test_frozen_leaves_every_byte(name: str) -> None:
    assert changed(*step(name, Frozen())) == set()


@pytest.mark.parametrize("name", NETWORKS)
def test_last_blocks_changes_them_alone(name: str) -> None:
    before, after = step(name, LastBlocks(2))
    # every parameter and every running statistic of theirs; nothing else
    assert changed(before, after) == {key for key in before if key.startswith(LAST_TWO[name])}


@pytest.mark.parametrize("name", NETWORKS)
def test_full_changes_everything(name: str) -> None:
    before, after = step(name, Full())
    assert changed(before, after) == set(before)


@pytest.mark.parametrize("freezing", [Frozen(), LastBlocks(1), Full()])
def test_the_head_and_the_aggregator_always_train(freezing: FreezingStrategy) -> None:
    module = BagModule(tiny_classifier(), freezing, BagAndSliceLoss(), ADAMW, 1, augment=False)
    inside = {id(p) for p in module.classifier.backbone.parameters()}
    assert all(p.requires_grad for p in module.classifier.parameters() if id(p) not in inside)


@pytest.mark.parametrize("name", NETWORKS)
def test_how_many_blocks_never_train(name: str) -> None:
    backbone = TimmBackbone(name, weights="none")
    count = BLOCKS[name]
    assert len(backbone.blocks()) == count
    assert Frozen().frozen_blocks(backbone) == count
    assert Frozen().is_frozen(backbone)
    assert LastBlocks(2).frozen_blocks(backbone) == count - 2
    assert LastBlocks(count).frozen_blocks(backbone) == 0
    assert Full().frozen_blocks(backbone) == 0
    assert not any(strategy.is_frozen(backbone) for strategy in (LastBlocks(1), Full()))


def test_more_blocks_than_there_are_is_wrong_usage() -> None:
    backbone = tiny_backbone()
    for ask in (
        lambda: LastBlocks(6).frozen_blocks(backbone),
        lambda: LastBlocks(6).apply(backbone, 0),
        lambda: LastBlocks(6).parameter_groups(backbone, 1.0),
    ):
        with pytest.raises(UsageError, match=r"freezing\.n=6: test_resnet has 5 blocks; give 1 to 5"):
            ask()


def test_strategies_can_follow_each_other_on_one_backbone() -> None:
    backbone = tiny_backbone()
    for strategy, trains in ((Full(), 45), (Frozen(), 0), (LastBlocks(1), 9), (LastBlocks(5), 45)):
        strategy.apply(backbone, epoch=0)
        assert sum(p.requires_grad for p in backbone.parameters()) == trains


def groups_of(freezing: FreezingStrategy, lr: float = 0.5) -> dict[str, dict[str, Any]]:
    config = ADAMW.model_copy(update={"lr": lr})
    module = BagModule(tiny_classifier(), freezing, BagAndSliceLoss(), config, 1, augment=False)
    optimizer: torch.optim.Optimizer = module.configure_optimizers()["optimizer"]
    given = [id(p) for group in optimizer.param_groups for p in group["params"]]
    trained = [id(p) for p in module.parameters() if p.requires_grad]
    assert sorted(given) == sorted(trained)  # each once, and nothing that is frozen
    return {group["name"]: group for group in optimizer.param_groups}


def test_learning_rates_of_the_groups() -> None:
    assert {name: group["lr"] for name, group in groups_of(Frozen()).items()} == {"head": 0.5}
    assert {n: g["lr"] for n, g in groups_of(LastBlocks(2, lr_scale=0.2)).items()} == {"head": 0.5, "backbone": 0.1}
    assert {n: g["lr"] for n, g in groups_of(Full()).items()} == {"head": 0.5, "backbone": 0.05}


def test_the_groups_of_the_backbone_are_its_last_blocks() -> None:
    backbone = tiny_backbone()
    (group,) = LastBlocks(2).parameter_groups(backbone, 1.0)
    expected = [p for name, p in backbone.named_parameters() if name.startswith(("net.layer3.", "net.layer4."))]
    assert [id(p) for p in group["params"]] == [id(p) for p in expected]
    assert Frozen().parameter_groups(backbone, 1.0) == []


def test_train_mode_follows_what_trains() -> None:
    network = nn.Sequential(
        nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2)),
        nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2, affine=False)),
    )
    for parameter in network[0].parameters():
        parameter.requires_grad_(False)
    set_train_mode(network.eval())
    frozen, thawed = network[0], network[1]
    assert not any(part.training for part in frozen.modules())
    assert all(part.training for part in thawed.modules())
    assert network.training
