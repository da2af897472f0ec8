from __future__ import annotations

from lungtl.models.freezing.from_scratch import FromScratch
from lungtl.models.freezing.full import Full
from tests.models.freezing.cases import RESNET, rates


def test_everything_has_the_heads_learning_rate() -> None:
    assert rates(FromScratch(), RESNET, 0.5) == {"head": 0.5, "backbone": 0.5}


def test_it_wants_random_weights_and_others_do_not_mind() -> None:
    assert FromScratch.weights == "none"
    assert Full.weights is None
