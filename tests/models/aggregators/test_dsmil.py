from __future__ import annotations

import numpy as np
import pytest
import torch

from lungtl.models.aggregators.dsmil import Dsmil
from tests.models.aggregators.cases import DIM, bags, needs_torchmil

pytestmark = needs_torchmil


def test_the_formula_in_numpy() -> None:
    torch.manual_seed(2)
    dsmil = Dsmil(DIM, hidden=5).eval()
    values = {key.removeprefix("model."): value.double().numpy() for key, value in dsmil.state_dict().items()}
    embeddings, slice_logits, mask = bags([6], padded_to=8, fill=50.0)
    h = embeddings[0, :6].double().numpy()

    scores = h @ values["inst_classifier.weight"][0] + values["inst_classifier.bias"][0]
    q = h @ values["q_nn.weight"].T + values["q_nn.bias"]
    w = np.exp(q @ q[scores.argmax()] / np.sqrt(5))
    w /= w.sum()
    of_the_bag = (w @ h) @ values["bag_classifier.weight"][0] + values["bag_classifier.bias"][0]

    logit, weights = dsmil(embeddings, slice_logits, mask)
    np.testing.assert_allclose(weights.detach().numpy()[0, :6], w, atol=1e-6)
    assert float(logit.detach()) == pytest.approx((scores.max() + of_the_bag) / 2, abs=1e-5)


def test_it_scores_a_bag_as_torchmil_predicts_it() -> None:
    dsmil = Dsmil(DIM, hidden=5).eval()
    embeddings, slice_logits, mask = bags([6])
    torch.testing.assert_close(dsmil(embeddings, slice_logits, mask)[0], dsmil.model.predict(embeddings))  # type: ignore[operator]
