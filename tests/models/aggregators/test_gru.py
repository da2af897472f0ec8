from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit

from lungtl.models.aggregators.gru import Gru
from tests.models.aggregators.cases import DIM, bags, equal_slices


def test_the_formula_in_numpy() -> None:
    torch.manual_seed(2)
    network = Gru(DIM, state=4, hidden=5).eval()
    values = {key: value.double().numpy() for key, value in network.state_dict().items()}
    embeddings, slice_logits, mask = bags([6], padded_to=9, fill=7.0)
    h = embeddings[0, :6].double().numpy()

    def states(inputs: NDArray[np.float64], suffix: str) -> NDArray[np.float64]:
        state, seen = np.zeros(4), []
        for row in inputs:
            of_input = values[f"gru.weight_ih_l0{suffix}"] @ row + values[f"gru.bias_ih_l0{suffix}"]
            of_state = values[f"gru.weight_hh_l0{suffix}"] @ state + values[f"gru.bias_hh_l0{suffix}"]
            reset, update = expit(of_input[:4] + of_state[:4]), expit(of_input[4:8] + of_state[4:8])
            state = (1 - update) * np.tanh(of_input[8:] + reset * of_state[8:]) + update * state
            seen.append(state)
        return np.stack(seen)

    x = np.concatenate([states(h, ""), states(h[::-1], "_reverse")[::-1]], axis=1)
    scores = np.tanh(x @ values["pool.attention.0.weight"].T + values["pool.attention.0.bias"])
    w = np.exp(scores @ values["pool.attention.2.weight"][0])
    w /= w.sum()
    expected = (w @ x) @ values["pool.classifier.weight"][0] + values["pool.classifier.bias"][0]

    logit, weights = network(embeddings, slice_logits, mask)
    np.testing.assert_allclose(weights.detach().numpy()[0, :6], w, atol=1e-6)
    assert float(logit.detach()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("changed", [0, 11])
def test_every_slice_depends_on_both_ends(changed: int) -> None:
    network = Gru(DIM).eval()
    embeddings, slice_logits, mask = bags([12])
    other = embeddings.clone()
    other[0, changed] += 3
    with torch.no_grad():
        before, after = (network.gru(h)[0][0] for h in (embeddings, other))
    assert ((after - before).abs().amax(dim=1) > 1e-6).all()
    assert float((network(other, slice_logits, mask)[0] - network(embeddings, slice_logits, mask)[0]).detach()) != 0


def test_weights_of_equal_slices_converge_away_from_the_ends() -> None:
    """The state of either direction begins at 0 and settles: what a slice weighs tells how much was read before it."""
    torch.manual_seed(1)
    network = Gru(DIM, state=4, hidden=5).eval()
    with torch.no_grad():
        weights = network(*equal_slices(200))[1][0]
    torch.testing.assert_close(weights[60:140], weights[100].expand(80), rtol=1e-5, atol=0)
    for end in (0, -1):
        assert abs(float(weights[end] / weights[100]) - 1) > 1e-3
