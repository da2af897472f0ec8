from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from lungtl.models.aggregators.max import Max
from lungtl.models.aggregators.mean import Mean
from lungtl.models.aggregators.top_k import TopK
from tests.models.aggregators.cases import DIM, bags

Level = Literal["embedding", "instance"]


def test_instance_is_the_mean_of_the_largest_probabilities() -> None:
    # softmax: 1/4, 3/5, 1/2 and 0 malignant
    odds = torch.tensor([[[2.0, 1.0, 1.0], [1.0, 1.0, 3.0], [0.5, 0.5, 1.0], [1.0, 1.0, 1e-9], [1.0, 1.0, 98.0]]])
    mask = torch.tensor([[True, True, True, True, False]])
    logit, weights = TopK(2, k=2)(torch.zeros(1, 5, 2), odds.log(), mask)
    assert float(logit.sigmoid()) == pytest.approx((3 / 5 + 1 / 2) / 2, abs=1e-6)
    assert weights.tolist() == [[0, 0.5, 0.5, 0, 0]]


def test_embedding_classifies_the_elementwise_mean_of_the_largest() -> None:
    largest = TopK(3, "embedding", k=2)
    classifier = largest.classifier
    assert classifier is not None
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
        classifier.bias.copy_(torch.tensor([0.5]))
    embeddings = torch.tensor([[[1.0, -9.0, 4.0], [2.0, -5.0, 3.0], [5.0, -7.0, 2.0], [99.0, 99.0, 99.0]]])
    mask = torch.tensor([[True, True, True, False]])
    logit, weights = largest(embeddings, torch.zeros(1, 4, 3), mask)
    assert float(logit.detach()) == pytest.approx(3.5 - 60 + 350 + 0.5)
    # of the six places the slices have 1 (third component), 3 and 2
    assert weights[0].tolist() == pytest.approx([1 / 6, 3 / 6, 2 / 6, 0])


@pytest.mark.parametrize("level", ["instance", "embedding"])
def test_one_is_the_maximum_and_all_are_the_mean(level: Level) -> None:
    inputs = bags([7, 2, 5])
    for k, other in ((1, Max(DIM, level)), (7, Mean(DIM, level)), (100, Mean(DIM, level))):
        top = TopK(DIM, level, k=k)
        other.load_state_dict(top.state_dict())
        for actual, expected in zip(top(*inputs), other(*inputs), strict=True):
            torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


def test_instance_keeps_logits_that_probabilities_would_round() -> None:
    for sign in (1, -1):
        slice_logits = torch.tensor([[[0.0, -1e9, sign * 60.0], [0.0, -1e9, sign * 60.0], [0.0, -1e9, -90.0]]])
        logit, _ = TopK(2, k=2)(torch.zeros(1, 3, 2), slice_logits, torch.ones(1, 3, dtype=torch.bool))
        assert float(logit) == pytest.approx(sign * 60, abs=1e-4)


def test_only_the_chosen_slices_learn() -> None:
    slice_logits: Tensor = torch.tensor([[[0.0, 0.0, z] for z in (1.0, 5.0, -2.0, 4.0)]], requires_grad=True)
    TopK(2, k=2)(torch.zeros(1, 4, 2), slice_logits, torch.ones(1, 4, dtype=torch.bool))[0].sum().backward()
    assert slice_logits.grad is not None
    assert slice_logits.grad.abs().sum(dim=-1).gt(0).tolist() == [[False, True, False, True]]
