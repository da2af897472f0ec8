from __future__ import annotations

import numpy as np
import pytest
import torch

from lungtl.models.aggregators.attention import Attention
from lungtl.models.aggregators.multi_head import MultiHead
from tests.models.aggregators.cases import DIM, bags


def test_one_head_is_attention() -> None:
    one, attention = MultiHead(DIM, heads=1, hidden=5), Attention(DIM, hidden=5)
    attention.load_state_dict(one.state_dict())
    inputs = bags([6, 3])
    for actual, expected in zip(one(*inputs), attention(*inputs), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_the_formula_in_numpy() -> None:
    torch.manual_seed(2)
    pooling = MultiHead(DIM, heads=3, hidden=5).eval()
    values = {key: value.double().numpy() for key, value in pooling.state_dict().items()}
    embeddings, slice_logits, mask = bags([6])
    h = embeddings[0].double().numpy()

    scores = np.tanh(h @ values["attention.0.weight"].T + values["attention.0.bias"]) @ values["attention.2.weight"].T
    w = np.exp(scores) / np.exp(scores).sum(axis=0)
    pooled = np.concatenate([w[:, head] @ h for head in range(3)])
    expected = pooled @ values["classifier.weight"][0] + values["classifier.bias"][0]

    logit, weights = pooling(embeddings, slice_logits, mask)
    np.testing.assert_allclose(weights.detach().numpy()[0], w.mean(axis=1), atol=1e-6)
    assert float(logit.detach()) == pytest.approx(expected, abs=1e-5)
    assert np.abs(w - w.mean(axis=1, keepdims=True)).max() > 0.01  # the heads see differently


def test_heads_detect_findings_in_the_same_slice() -> None:
    """Each head attends to one of two findings: both in one slice differ from one in each of two slices."""
    pooling = MultiHead(2, heads=2, hidden=2).eval()
    with torch.no_grad():
        pooling.attention.load_state_dict(
            {"0.weight": torch.eye(2), "0.bias": torch.zeros(2), "2.weight": 40 * torch.eye(2)}
        )
        pooling.classifier.weight.copy_(torch.tensor([[0.0, 1.0, 0.0, 0.0]]))  # the second finding where the first is
    apart = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    together = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    rest = torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool)
    difference = pooling(together, *rest)[0] - pooling(apart, *rest)[0]
    assert float(difference.detach()) == pytest.approx(1, abs=1e-5)
