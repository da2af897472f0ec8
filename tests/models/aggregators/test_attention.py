from __future__ import annotations

import numpy as np
import pytest
import torch

from lungtl.models.aggregators.attention import Attention
from tests.models.aggregators.cases import DIM, bags, needs_torchmil, renamed


def test_the_formula_in_numpy() -> None:
    torch.manual_seed(2)
    attention = Attention(DIM, hidden=5).eval()
    values = {key: value.double().numpy() for key, value in attention.state_dict().items()}
    embeddings, slice_logits, mask = bags([6])
    h = embeddings[0].double().numpy()

    scores = np.tanh(h @ values["attention.0.weight"].T + values["attention.0.bias"]) @ values["attention.2.weight"][0]
    w = np.exp(scores) / np.exp(scores).sum()
    expected = (w @ h) @ values["classifier.weight"][0] + values["classifier.bias"][0]

    logit, weights = attention(embeddings, slice_logits, mask)
    np.testing.assert_allclose(weights.detach().numpy()[0], w, atol=1e-6)
    assert float(logit.detach()) == pytest.approx(expected, abs=1e-5)
    assert w.max() / w.min() > 1.1  # not the mean in disguise


def test_attention_finds_the_slice_that_scores_far_higher() -> None:
    attention = Attention(2, hidden=1).eval()
    attention.load_state_dict(
        {"attention.0.weight": torch.tensor([[1.0, 0.0]]), "attention.0.bias": torch.zeros(1)}
        | {"attention.2.weight": torch.tensor([[20.0]])},
        strict=False,
    )
    embeddings = torch.tensor([[[-3.0, 1.0], [3.0, 2.0], [-3.0, 3.0]]])
    _, weights = attention(embeddings, torch.zeros(1, 3, 3), torch.ones(1, 3, dtype=torch.bool))
    assert weights[0].tolist() == pytest.approx([0, 1, 0], abs=1e-6)


def test_attention_does_not_look_at_the_slice_logits() -> None:
    attention = Attention(DIM).eval()
    embeddings, slice_logits, mask = bags([4])
    assert torch.equal(attention(embeddings, slice_logits, mask)[0], attention(embeddings, -slice_logits, mask)[0])


@needs_torchmil
def test_it_is_abmil_of_torchmil() -> None:
    from torchmil.models import ABMIL

    attention, theirs = Attention(DIM, hidden=5).eval(), ABMIL((DIM,), att_dim=5).eval()
    names = {"attention.0": "pool.fc1.module", "attention.2": "pool.fc2", "classifier": "classifier.module"}
    theirs.load_state_dict(renamed(attention, names))
    embeddings, slice_logits, mask = bags([6, 3])
    logits, weights = attention(embeddings, slice_logits, mask)
    expected, scores = theirs(embeddings, mask, return_att=True)
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights, scores.masked_fill(~mask, -torch.inf).softmax(dim=1), atol=1e-6, rtol=0)
