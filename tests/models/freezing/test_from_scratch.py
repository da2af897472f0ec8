from __future__ import annotations

from lungtl.models.freezing.from_scratch import FromScratch
from lungtl.models.freezing.full import Full
from tests.models.freezing.cases import RESNET, rates


def test_everything_trains_at_the_heads_learning_rate() -> None:
    assert rates(FromScratch(), RESNET, 0.5) == {"head": 0.5, "backbone": 0.5}


def test_from_scratch_requires_random_weights() -> None:
    assert FromScratch.weights == "none"
    assert Full.weights is None
