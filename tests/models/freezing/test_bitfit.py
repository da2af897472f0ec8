from __future__ import annotations

import pytest

from lungtl.models.freezing.bitfit import BitFit
from lungtl.settings.errors import UsageError
from tests.models.freezing.cases import RESNET, rates
from tests.models.tiny import tiny_backbone


def test_their_learning_rate() -> None:
    assert rates(BitFit(lr_scale=0.5), RESNET, 0.5) == {"head": 0.5, "biases": 0.25}


def test_a_resnet_has_a_bias_in_each_batch_norm() -> None:
    (group,) = BitFit().groups(tiny_backbone(name=RESNET))
    assert len(group.parameters) == 20  # the stem's, two in each of eight blocks, three of shortcuts


def test_a_network_without_biases_is_refused() -> None:
    backbone = tiny_backbone()
    for module in backbone.modules():
        if getattr(module, "bias", None) is not None:
            module.register_parameter("bias", None)
    with pytest.raises(UsageError, match="freezing=bitfit: test_resnet has no biases; use freezing=norm_only"):
        BitFit().groups(backbone)
