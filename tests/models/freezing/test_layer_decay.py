from __future__ import annotations

import pytest

from lungtl.models.freezing.layer_decay import LayerDecay
from tests.models.freezing.cases import RESNET, VIT, rates


def test_the_learning_rate_halves_from_block_to_block() -> None:
    learning_rates = list(rates(LayerDecay(decay=0.5, lr_scale=0.2), RESNET, 0.8).values())
    assert learning_rates == pytest.approx([0.8, 0.16, 0.08, 0.04, 0.02, 0.01])  # head, layer4 .. layer1, stem


def test_a_transformers_patch_embedding_is_the_last_block_from_the_output() -> None:
    learning_rates = list(rates(LayerDecay(decay=0.5, lr_scale=1.0), VIT, 1.0).values())
    assert learning_rates == pytest.approx([1.0] + [0.5**depth for depth in range(13)])


def test_without_decay_all_are_equal() -> None:
    assert set(rates(LayerDecay(decay=1.0, lr_scale=1.0), RESNET, 0.5).values()) == {0.5}
