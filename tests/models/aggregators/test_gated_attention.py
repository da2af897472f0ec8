from __future__ import annotations

import numpy as np
import pytest
import torch

from lungtl.models.aggregators.gated_attention import GatedAttention
from tests.models.aggregators.cases import DIM, bags, needs_torchmil, renamed


def test_the_formula_in_numpy() -> None:
    torch.manual_seed(2)
    gated = GatedAttention(DIM, hidden=5).eval()
    values = {key: value.double().numpy() for key, value in gated.state_dict().items()}
    embeddings, slice_logits, mask = bags([6])
    h = embeddings[0].double().numpy()

    features = np.tanh(h @ values["features.weight"].T + values["features.bias"])
    gate = 1 / (1 + np.exp(-(h @ values["gate.weight"].T + values["gate.bias"])))
    scores = (features * gate) @ values["score.weight"][0]
    w = np.exp(scores) / np.exp(scores).sum()
    expected = (w @ h) @ values["classifier.weight"][0] + values["classifier.bias"][0]

    logit, weights = gated(embeddings, slice_logits, mask)
    np.testing.assert_allclose(weights.detach().numpy()[0], w, atol=1e-6)
    assert float(logit.detach()) == pytest.approx(expected, abs=1e-5)
    assert w.max() / w.min() > 1.1


def test_a_closed_gate_suppresses_a_slice() -> None:
    gated = GatedAttention(2, hidden=1).eval()
    with torch.no_grad():
        gated.features.weight.copy_(torch.tensor([[9.0, 0.0]]))
        gated.gate.weight.copy_(torch.tensor([[0.0, 9.0]]))
        gated.features.bias.zero_()
        gated.gate.bias.zero_()
        gated.score.weight.fill_(30.0)
    # both shout; the first one's gate is closed, the second's open
    embeddings = torch.tensor([[[3.0, -3.0], [3.0, 3.0]]])
    _, weights = gated(embeddings, torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))
    assert weights[0].tolist() == pytest.approx([0, 1], abs=1e-6)


@needs_torchmil
def test_it_is_gated_abmil_of_torchmil() -> None:
    from torchmil.models import ABMIL

    gated, theirs = GatedAttention(DIM, hidden=5).eval(), ABMIL((DIM,), att_dim=5, gated=True).eval()
    names = {"features": "pool.fc1.module", "gate": "pool.fc_gated.module", "score": "pool.fc2"}
    theirs.load_state_dict(renamed(gated, names | {"classifier": "classifier.module"}))
    embeddings, slice_logits, mask = bags([6, 3])
    logits, weights = gated(embeddings, slice_logits, mask)
    expected, scores = theirs(embeddings, mask, return_att=True)
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights, scores.masked_fill(~mask, -torch.inf).softmax(dim=1), atol=1e-6, rtol=0)
