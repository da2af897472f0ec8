from __future__ import annotations

import numpy as np
import pytest
import torch

from lungtl.models.aggregators.sm_attention import SmAttention, chain
from tests.models.aggregators.cases import DIM, bags, equal_slices, needs_torchmil

pytestmark = needs_torchmil


def test_the_formula_in_numpy() -> None:
    torch.manual_seed(2)
    network = SmAttention(DIM, hidden=5, steps=3).eval()
    with torch.no_grad():
        network.get_parameter("model.pool.sm.sm.coef").fill_(0.25)  # r = 1 / (1 + 0.25)
    values = {key.removeprefix("model."): value.double().numpy() for key, value in network.state_dict().items()}
    embeddings, slice_logits, mask = bags([4], padded_to=6, fill=7.0)
    h = embeddings[0, :4].double().numpy()

    half, root = 1 / 2, 1 / np.sqrt(2)  # the slices in a row have 1, 2, 2 and 1 neighbours
    a = np.array([[0, root, 0, 0], [root, 0, half, 0], [0, half, 0, root], [0, 0, root, 0]])
    g = h
    for _ in range(3):
        g = 0.2 * h + 0.8 * a @ g
    scores = np.tanh(g @ values["pool.proj1.weight"].T + values["pool.proj1.bias"]) @ values["pool.proj2.weight"][0]
    w = np.exp(scores) / np.exp(scores).sum()
    expected = (w @ g) @ values["last_layer.weight"][0] + values["last_layer.bias"][0]

    logit, weights = network(embeddings, slice_logits, mask)
    np.testing.assert_allclose(weights.detach().numpy()[0, :4], w, atol=1e-6)
    assert float(logit.detach()) == pytest.approx(expected, abs=1e-5)


def test_a_single_slice_has_no_neighbours() -> None:
    assert chain(1, torch.device("cpu")).tolist() == [[[0.0]]]


def test_equal_slices_weigh_the_same_but_for_those_near_the_ends() -> None:
    """The slices at the ends have one neighbour; three steps carry that to the fourth slice from either end."""
    torch.manual_seed(2)
    network = SmAttention(DIM, hidden=5, steps=3).eval()
    with torch.no_grad():
        weights = network(*equal_slices(20))[1][0]
        pair = network(*equal_slices(2))[1][0]
    torch.testing.assert_close(weights, weights.flip(0))
    torch.testing.assert_close(weights[4:16], weights[10].expand(12))
    assert ((weights[:4] / weights[10] - 1).abs() > 1e-5).all()
    torch.testing.assert_close(pair, torch.full((2,), 0.5))
