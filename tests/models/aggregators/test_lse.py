from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lungtl.models.aggregators.base import malignancy_logits
from lungtl.models.aggregators.lse import Lse
from lungtl.models.aggregators.max import Max
from tests.models.aggregators.cases import DIM, bags


def test_a_hand_computed_bag() -> None:
    # odds of malignancy 1, 4 and 9; t = 2 takes their square roots: 2 log((1 + 2 + 3) / 3) = log 4
    slice_logits = torch.tensor([[[1.0, 0.0, 1.0], [0.5, 0.5, 4.0], [1.0, 0.0, 9.0], [1.0, 0.0, 99.0]]]).log()
    mask = torch.tensor([[True, True, True, False]])
    logit, weights = Lse(2, temperature=2.0)(torch.zeros(1, 4, 2), slice_logits, mask)
    assert float(logit) == pytest.approx(math.log(4), abs=1e-6)
    assert weights[0].tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6, 0], abs=1e-6)


@pytest.mark.parametrize("level", ["instance", "embedding"])
def test_a_low_temperature_is_the_maximum(level: Literal["embedding", "instance"]) -> None:
    cold, largest = Lse(DIM, level, temperature=1e-4), Max(DIM, level)
    share_classifier(cold, largest)
    inputs = bags([7, 2])
    logits, weights = cold(*inputs)
    expected, expected_weights = largest(*inputs)
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(weights, expected_weights, atol=1e-5, rtol=0)


def test_a_high_temperature_is_the_mean() -> None:
    embeddings, slice_logits, mask = bags([7, 2])
    z = malignancy_logits(slice_logits)
    logits, weights = Lse(DIM, temperature=1e3)(embeddings, slice_logits, mask)
    torch.testing.assert_close(logits, torch.stack([z[0, :7].mean(), z[1, :2].mean()]), atol=0.02, rtol=0)
    torch.testing.assert_close(weights[0], torch.full((7,), 1 / 7), atol=0.01, rtol=0)


def test_embedding_is_a_linear_classifier_on_the_elementwise_log_sum_exp() -> None:
    lse = Lse(DIM, "embedding", temperature=0.5)
    classifier = lse.classifier
    assert classifier is not None
    embeddings, slice_logits, mask = bags([6])
    h = embeddings[0].double().numpy()
    pooled = 0.5 * np.log(np.exp(h / 0.5).mean(axis=0))
    w = (np.exp(h / 0.5) / np.exp(h / 0.5).sum(axis=0)).mean(axis=1)
    expected = pooled @ classifier.weight[0].detach().numpy() + float(classifier.bias.detach())
    logit, weights = lse(embeddings, slice_logits, mask)
    assert float(logit.detach()) == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(weights[0].numpy(), w, atol=1e-6)


def test_weights_are_the_derivative() -> None:
    embeddings, slice_logits, mask = bags([5])
    z = malignancy_logits(slice_logits).requires_grad_()
    logits, weights = Lse(DIM, temperature=3.0)(embeddings, torch.stack([0 * z, 0 * z - 1e9, z], dim=-1), mask)
    logits.sum().backward()
    torch.testing.assert_close(z.grad, weights)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=9), st.floats(0.01, 100))
def test_it_is_between_the_mean_and_the_maximum(z: list[float], temperature: float) -> None:
    slice_logits = torch.tensor([[[0.0, -1e9, value] for value in z]])
    mask = torch.ones(1, len(z), dtype=torch.bool)
    logit = float(Lse(2, temperature=temperature)(torch.zeros(1, len(z), 2), slice_logits, mask)[0])
    slack = 1e-5 * max(1.0, *map(abs, z)) + 1e-4
    assert np.mean(z) - slack <= logit <= max(z) + slack


def share_classifier(one: Lse, other: Max) -> None:
    if isinstance(one.classifier, nn.Linear) and isinstance(other.classifier, nn.Linear):
        other.classifier.load_state_dict(one.classifier.state_dict())
