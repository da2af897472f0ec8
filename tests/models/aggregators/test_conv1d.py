from __future__ import annotations

import numpy as np
import pytest
import torch

from lungtl.models.aggregators.conv1d import Conv1d
from tests.models.aggregators.cases import DIM, bags


def test_the_formula_in_numpy() -> None:
    torch.manual_seed(2)
    network = Conv1d(DIM, kernel=5, layers=2, hidden=5).eval()
    values = {key: value.double().numpy() for key, value in network.state_dict().items()}
    embeddings, slice_logits, mask = bags([6], padded_to=9, fill=7.0)
    x = embeddings[0, :6].double().numpy()

    for layer in range(2):
        weight, bias = values[f"convolutions.{layer}.weight"], values[f"convolutions.{layer}.bias"]
        outside = np.pad(x, ((2, 2), (0, 0)))
        heard = np.stack([sum(weight[:, :, d] @ outside[s + d] for d in range(5)) + bias for s in range(6)])
        x = x + np.maximum(heard, 0)
    scores = np.tanh(x @ values["pool.attention.0.weight"].T + values["pool.attention.0.bias"])
    w = np.exp(scores @ values["pool.attention.2.weight"][0])
    w /= w.sum()
    expected = (w @ x) @ values["pool.classifier.weight"][0] + values["pool.classifier.bias"][0]

    logit, weights = network(embeddings, slice_logits, mask)
    np.testing.assert_allclose(weights.detach().numpy()[0, :6], w, atol=1e-6)
    assert float(logit.detach()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("kernel", "layers", "reach"), [(3, 1, 1), (3, 2, 2), (7, 1, 3)])
def test_the_receptive_field_is_that_of_the_kernels(kernel: int, layers: int, reach: int) -> None:
    """The scores before the softmax tell which slices one of them changes."""
    network = Conv1d(DIM, kernel=kernel, layers=layers).eval()  # type: ignore[arg-type]
    embeddings, slice_logits, mask = bags([15])
    changed = embeddings.clone()
    changed[0, 7] += 2
    with torch.no_grad():
        before, after = (network(h, slice_logits, mask)[1][0].log() for h in (embeddings, changed))
    moved = (after - after[0] - before + before[0]).abs() > 1e-6
    assert moved.nonzero().flatten().tolist() == list(range(7 - reach, 8 + reach))


def test_equal_slices_far_from_both_ends_weigh_the_same() -> None:
    torch.manual_seed(0)
    network = Conv1d(DIM).eval()
    embeddings, slice_logits, mask = (part.repeat(1, 20, *[1] * (part.ndim - 2)) for part in bags([1]))
    _, weights = network(embeddings, slice_logits, mask)
    torch.testing.assert_close(weights[0, 2:18], weights[0, 10].expand(16))
    assert abs(float((weights[0, 0] - weights[0, 10]).detach())) > 1e-5  # beyond the end nothing is heard
