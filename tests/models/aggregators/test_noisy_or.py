from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lungtl.models.aggregators.noisy_or import NoisyOr


def judged(z: list[float]) -> tuple[float, list[float]]:
    """Logit and weights of slices whose malignancy has these logits."""
    slice_logits = torch.tensor([[[0.0, -1e9, value] for value in z]])
    logit, weights = NoisyOr(2)(torch.zeros(1, len(z), 2), slice_logits, torch.ones(1, len(z), dtype=torch.bool))
    return float(logit), weights[0].tolist()


def test_a_hand_computed_bag() -> None:
    # softmax: 1/4, 1/2 and 3/5 malignant; 1 - 3/4 * 1/2 * 2/5 = 17/20; the last slice is padding
    odds = torch.tensor([[[2.0, 1.0, 1.0], [0.5, 0.5, 1.0], [1.0, 1.0, 3.0], [1.0, 1.0, 98.0]]])
    mask = torch.tensor([[True, True, True, False]])
    logit, weights = NoisyOr(2)(torch.zeros(1, 4, 2), odds.log(), mask)
    assert float(logit.sigmoid()) == pytest.approx(17 / 20, abs=1e-6)
    evidence = [math.log(4 / 3), math.log(2), math.log(5 / 2)]
    assert weights[0].tolist() == pytest.approx([e / sum(evidence) for e in evidence] + [0], abs=1e-6)


@pytest.mark.parametrize("count", [1, 2, 800])
def test_equal_slices_add_their_evidence(count: int) -> None:
    logit, weights = judged([-3.0] * count)
    # p / (1 - p) = (1 + e^-3)^S - 1; p of 800 slices is 1 - 1e-17
    assert logit == pytest.approx(math.log(math.expm1(count * math.log1p(math.exp(-3)))), rel=1e-6)
    assert weights == pytest.approx([1 / count] * count)


@given(st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=20))
def test_float32_agrees_with_long_doubles(z: list[float]) -> None:
    # 1 + odds = prod (1 + odds_s), as a sum of positive terms: no digit is lost, in a type where exp(300) is nothing
    odds = np.longdouble(0)
    for value in np.exp(np.array(z, dtype=np.longdouble)):
        odds = odds + value + odds * value
    logit, weights = judged(z)
    assert logit == pytest.approx(float(np.log(odds)), abs=2e-6, rel=1e-6)
    evidence = np.log1p(np.exp(np.array(z, dtype=np.longdouble)))
    np.testing.assert_allclose(weights, (evidence / evidence.sum()).astype(float), atol=1e-6)


@pytest.mark.parametrize(("z", "expected"), [(-1000.0, -1000 + math.log(800)), (1000.0, 800 * 1000.0)])
def test_logits_far_beyond_what_a_probability_can_hold(z: float, expected: float) -> None:
    assert judged([z] * 800)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("z", [-40.0, -20.0, -14.0, -9.0, 0.0, 9.0, 40.0])
def test_the_gradient_is_that_of_the_formula(z: float) -> None:
    """d logit / d z_s = p_s / p, for slices of z and z - 1."""
    slice_logits: Tensor = torch.tensor([[[0.0, -1e9, z], [0.0, -1e9, z - 1]]], requires_grad=True)
    NoisyOr(2)(torch.zeros(1, 2, 2), slice_logits, torch.ones(1, 2, dtype=torch.bool))[0].sum().backward()
    assert slice_logits.grad is not None
    log_p = -np.logaddexp(0, [-z, 1 - z])
    one_minus = -np.logaddexp(0, [z, z - 1]).sum()  # log(1 - p)
    expected = np.exp(log_p) / -np.expm1(one_minus)
    np.testing.assert_allclose(slice_logits.grad[0, :, 2].numpy(), expected, rtol=1e-4)
