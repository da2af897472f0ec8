from __future__ import annotations

import pytest

from lungtl.models.freezing.last_blocks import LastBlocks
from lungtl.settings.errors import UsageError
from tests.models.freezing.cases import RESNET, rates
from tests.models.tiny import tiny_backbone


def test_the_blocks_have_one_learning_rate() -> None:
    assert rates(LastBlocks(2, lr_scale=0.2), RESNET, 0.5) == pytest.approx({"head": 0.5, "backbone": 0.1})


def test_the_group_is_the_last_blocks_in_the_networks_order() -> None:
    backbone = tiny_backbone()
    (group,) = LastBlocks(2).parameter_groups(backbone, 1.0)
    expected = [p for name, p in backbone.named_parameters() if name.startswith(("net.layer3.", "net.layer4."))]
    assert [id(p) for p in group["params"]] == [id(p) for p in expected]


def test_more_blocks_than_the_network_has_are_refused() -> None:
    backbone = tiny_backbone()
    for ask in (
        lambda: LastBlocks(6).frozen_blocks(backbone),
        lambda: LastBlocks(6).apply(backbone, 0),
        lambda: LastBlocks(6).parameter_groups(backbone, 1.0),
    ):
        with pytest.raises(UsageError, match=r"freezing\.n=6: test_resnet has 5 blocks; give 1 to 5"):
            ask()
