from __future__ import annotations

import pytest
import torch
from timm.layers.norm import LayerNorm2d
from torch import nn

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.norm_only import NormOnly
from lungtl.settings.errors import UsageError
from tests.models.freezing.cases import RESNET, rates
from tests.models.tiny import tiny_backbone


def test_their_learning_rate() -> None:
    assert rates(NormOnly(lr_scale=0.5), RESNET, 0.5) == {"head": 0.5, "normalisation": 0.25}


def test_timms_own_normalisation_layers_are_found() -> None:
    backbone = tiny_backbone(name="test_convnext")
    kinds = (LayerNorm2d, nn.LayerNorm)
    expected = {id(p) for module in backbone.modules() if isinstance(module, kinds) for p in module.parameters()}
    (group,) = NormOnly().parameter_groups(backbone, 1.0)
    assert {id(p) for p in group["params"]} == expected


def test_a_network_without_normalisation_is_refused() -> None:
    with torch.device("meta"):  # only names are needed
        backbone = TimmBackbone("vgg11", weights="none")
    with pytest.raises(UsageError, match="freezing=norm_only: vgg11 has no normalisation layers; use freezing=bitfit"):
        NormOnly().groups(backbone)
