from __future__ import annotations

import pytest

from lungtl.models.freezing.gradual import Gradual
from lungtl.settings.errors import UsageError
from tests.models.freezing.cases import RESNET, rates
from tests.models.tiny import tiny_backbone


def test_blocks_are_unfrozen_from_the_output_down_every_few_epochs() -> None:
    groups = Gradual(every=3).groups(tiny_backbone(name=RESNET))
    assert [group.parameters[0].split(".")[1] for group in groups] == ["layer4", "layer3", "layer2", "layer1", "conv1"]
    assert [group.epoch for group in groups] == [3, 6, 9, 12, 15]


def test_a_maximum_number_of_blocks() -> None:
    backbone, freezing = tiny_backbone(name=RESNET), Gradual(every=3, most=2)
    assert [group.epoch for group in freezing.groups(backbone)] == [3, 6]
    assert freezing.frozen_blocks(backbone) == 3
    assert freezing.last_unfreezing(backbone) == 6


def test_a_block_trains_from_its_epoch() -> None:
    backbone, freezing = tiny_backbone(name=RESNET), Gradual(every=2)
    trains = []
    for epoch in range(6):
        freezing.apply(backbone, epoch)
        trains.append({name.split(".")[1] for name, p in backbone.named_parameters() if p.requires_grad})
    assert trains == [set(), set(), {"layer4"}, {"layer4"}, {"layer4", "layer3"}, {"layer4", "layer3"}]


def test_all_blocks_have_one_learning_rate() -> None:
    learning_rates = list(rates(Gradual(1, lr_scale=0.2, most=2), RESNET, 0.5).values())
    assert learning_rates == pytest.approx([0.5, 0.1, 0.1])


def test_more_blocks_than_the_network_has_are_refused() -> None:
    with pytest.raises(UsageError, match=r"freezing\.most=6: resnet18 has 5 blocks; give 1 to 5"):
        Gradual(1, most=6).groups(tiny_backbone(name=RESNET))
