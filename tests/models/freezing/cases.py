"""All strategies, the parameters they train in three networks, and training steps."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.freezing.bitfit import BitFit
from lungtl.models.freezing.from_scratch import FromScratch
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.full import Full
from lungtl.models.freezing.gradual import Gradual
from lungtl.models.freezing.last_blocks import LastBlocks
from lungtl.models.freezing.layer_decay import LayerDecay
from lungtl.models.freezing.lora import Lora
from lungtl.models.freezing.lp_ft import LpFt
from lungtl.models.freezing.norm_only import NormOnly
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from tests.models.tiny import adamw, constant, noise_batch, tiny_classifier

LITE, RESNET, VIT = NETWORKS = ("tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224")
FROM_THE_TOP: dict[str, list[tuple[str, ...]]] = {
    LITE: [
        ("net.blocks.6.", "net.conv_head.", "net.bn2."),
        *[(f"net.blocks.{stage}.",) for stage in (5, 4, 3, 2, 1, 0)],
        ("net.conv_stem.", "net.bn1."),
    ],
    RESNET: [*[(f"net.layer{stage}.",) for stage in (4, 3, 2, 1)], ("net.conv1.", "net.bn1.")],
    VIT: [
        ("net.blocks.11.", "net.norm."),
        *[(f"net.blocks.{block}.",) for block in range(10, -1, -1)],
        ("net.cls_token", "net.pos_embed", "net.patch_embed."),
    ],
}
"""Blocks of each network, from the output down, as prefixes of parameter names."""
NORMALISATION = {LITE: r"\.bn\d\.", RESNET: r"\.(bn\d|downsample\.1)\.", VIT: r"\.norm\d?\."}
EPOCHS = 4
needs_peft = pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="pip install 'lungtl[lora]'")


def top(network: str, key: str, blocks: int) -> bool:
    """Whether a parameter or buffer is in the last blocks."""
    return any(key.startswith(names) for names in FROM_THE_TOP[network][:blocks])


@dataclass(frozen=True)
class Case:
    """A strategy.

    Attributes:
        build: creates it.
        moves: (network, key, epoch) -> whether this parameter or buffer of the backbone changes in that epoch.
        frozen_blocks: how many leading blocks of the three networks never train.
    """

    build: Callable[[], FreezingStrategy]
    moves: Callable[[str, str, int], bool]
    frozen_blocks: tuple[int, int, int] = (0, 0, 0)


CASES: dict[str, Case] = {
    "frozen": Case(Frozen, lambda network, key, epoch: False, (8, 5, 13)),
    "last_blocks": Case(lambda: LastBlocks(2), lambda network, key, epoch: top(network, key, 2), (6, 3, 11)),
    "full": Case(Full, lambda network, key, epoch: True),
    "from_scratch": Case(FromScratch, lambda network, key, epoch: True),
    "gradual": Case(lambda: Gradual(1), lambda network, key, epoch: top(network, key, epoch)),
    "gradual_most": Case(
        lambda: Gradual(2, most=1), lambda network, key, epoch: epoch >= 2 and top(network, key, 1), (7, 4, 12)
    ),
    "layer_decay": Case(LayerDecay, lambda network, key, epoch: True),
    "lp_ft": Case(lambda: LpFt(probe_epochs=2), lambda network, key, epoch: epoch >= 2),
    "norm_only": Case(
        NormOnly, lambda network, key, epoch: re.search(NORMALISATION[network], key) is not None, (0, 0, 1)
    ),
    "bitfit": Case(BitFit, lambda network, key, epoch: key.endswith(".bias")),
    "lora": Case(lambda: Lora(rank=2), lambda network, key, epoch: ".lora_" in key, (1, 0, 1)),
}


def adapted_module(name: str, freezing: FreezingStrategy, lr: float = 1e-2) -> BagModule:
    """A small classifier and its strategy, as a run puts them together."""
    classifier = tiny_classifier(name=name)
    freezing.adapt(classifier.backbone)
    return BagModule(classifier, freezing, BagAndSliceLoss(), adamw(lr), constant(), EPOCHS)


def optimizer_of(module: BagModule) -> torch.optim.Optimizer:
    optimizer: torch.optim.Optimizer = module.configure_optimizers()["optimizer"]
    return optimizer


def epochs_of(module: BagModule, optimizer: torch.optim.Optimizer) -> Iterator[set[str]]:
    """Two real steps an epoch; yields what of the backbone changed in each, bit by bit."""
    backbone, batch = module.classifier.backbone, noise_batch()
    for epoch in range(EPOCHS):
        before = {key: value.clone() for key, value in backbone.state_dict().items()}
        module.freezing.apply(backbone, epoch)
        module.train()
        for _ in range(2):
            module.loss(module(batch), batch.bag_labels, batch.slice_labels)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        yield changed(before, backbone.state_dict())


def rates(freezing: FreezingStrategy, name: str, lr: float) -> dict[str, float]:
    """The learning rate of every group of the optimiser."""
    return {group["name"]: group["lr"] for group in optimizer_of(adapted_module(name, freezing, lr)).param_groups}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}
