from __future__ import annotations

import math

import pytest
import torch

from lungtl.models.aggregators.max import Max


def test_instance_is_the_largest_malignant_probability() -> None:
    odds = torch.tensor([[[2.0, 1.0, 1.0], [1.0, 1.0, 3.0], [0.5, 0.5, 1.0], [1.0, 1.0, 98.0]]])
    mask = torch.tensor([[True, True, True, False]])
    logit, weights = Max(2)(torch.zeros(1, 4, 2), odds.log(), mask)
    assert float(logit.sigmoid()) == pytest.approx(3 / 5, abs=1e-6)
    assert weights.tolist() == [[0, 1, 0, 0]]


def test_malignancy_is_relative_to_the_other_classes() -> None:
    slice_logits = torch.tensor([[[9.0, 0.0, 8.0], [0.0, 0.0, 2.0]]])
    logit, weights = Max(2)(torch.zeros(1, 2, 2), slice_logits, torch.ones(1, 2, dtype=torch.bool))
    assert float(logit) == pytest.approx(2 - math.log(2), abs=1e-6)
    assert weights.tolist() == [[0, 1]]


def test_instance_learns_from_the_winner_alone() -> None:
    slice_logits = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 0.0, 5.0]]], requires_grad=True)
    Max(2)(torch.zeros(1, 2, 2), slice_logits, torch.ones(1, 2, dtype=torch.bool))[0].sum().backward()
    assert slice_logits.grad is not None
    assert slice_logits.grad.abs().sum(dim=-1).gt(0).tolist() == [[False, True]]


def test_embedding_classifies_the_elementwise_maximum() -> None:
    largest = Max(4, "embedding")
    classifier = largest.classifier
    assert classifier is not None
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
        classifier.bias.copy_(torch.tensor([0.5]))
    embeddings = torch.tensor([[[1.0, -9.0, 4.0, 0.0], [2.0, -5.0, 3.0, 7.0], [99.0, 99.0, 99.0, 99.0]]])
    mask = torch.tensor([[True, True, False]])
    logit, weights = largest(embeddings, torch.zeros(1, 3, 3), mask)
    assert float(logit.detach()) == pytest.approx(2 - 50 + 400 + 7000 + 0.5)
    assert weights.tolist() == [[0.25, 0.75, 0]]
