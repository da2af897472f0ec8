from __future__ import annotations

from lungtl.models.freezing.frozen import Frozen
from tests.models.freezing.cases import RESNET, rates


def test_only_the_head_has_a_learning_rate() -> None:
    assert rates(Frozen(), RESNET, 0.5) == {"head": 0.5}
