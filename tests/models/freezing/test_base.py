from __future__ import annotations

import pytest
from torch import nn

from lungtl.models.freezing.base import set_train_mode
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.full import Full
from lungtl.models.freezing.last_blocks import LastBlocks
from tests.models.tiny import tiny_backbone


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.BatchNorm1d(2))


def test_train_mode_follows_what_trains() -> None:
    network = nn.Sequential(layers(), layers())
    network[0].requires_grad_(False)
    set_train_mode(network.eval())
    assert not any(part.training for part in network[0].modules())
    assert all(part.training for part in network[1].modules())
    assert network.training


def test_a_layer_without_parameters_follows_its_parent() -> None:
    holder = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False))
    set_train_mode(holder)
    assert holder[1].training
    set_train_mode(holder.requires_grad_(False))
    assert not holder[1].training


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_running_statistics_adapt_only_when_weight_and_bias_train(frozen: str) -> None:
    network = layers()
    network[2].get_parameter(frozen).requires_grad_(False)
    set_train_mode(network)
    assert [part.training for part in network] == [True, True, False]


def test_a_layer_without_running_statistics_trains_with_any_of_its_parameters() -> None:
    network = nn.Sequential(nn.LayerNorm(2))
    network[0].get_parameter("weight").requires_grad_(False)
    set_train_mode(network)
    assert network[0].training


def test_strategies_can_follow_each_other_on_one_backbone() -> None:
    backbone = tiny_backbone()
    for strategy, trains in ((Full(), 45), (Frozen(), 0), (LastBlocks(1), 9), (LastBlocks(5), 45)):
        strategy.apply(backbone, epoch=0)
        assert sum(p.requires_grad for p in backbone.parameters()) == trains


def test_a_strategy_without_decisions_has_no_state() -> None:
    strategy = Full()
    strategy.after_epoch(0, 1.0)
    assert strategy.state() == {}
    assert strategy.last_unfreezing(tiny_backbone()) == 0
