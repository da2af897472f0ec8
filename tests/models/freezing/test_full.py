from __future__ import annotations

import pytest

from lungtl.models.freezing.full import Full
from tests.models.freezing.cases import RESNET, rates


def test_the_backbone_has_one_learning_rate() -> None:
    assert rates(Full(), RESNET, 0.5) == pytest.approx({"head": 0.5, "backbone": 0.05})
    assert rates(Full(lr_scale=0.2), RESNET, 0.5) == pytest.approx({"head": 0.5, "backbone": 0.1})
