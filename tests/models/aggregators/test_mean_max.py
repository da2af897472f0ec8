from __future__ import annotations

import pytest
import torch

from lungtl.models.aggregators.mean_max import MeanMax

BAG = torch.tensor([[[1.0, -9.0], [3.0, -5.0], [99.0, 99.0]]])
MASK = torch.tensor([[True, True, False]])


def made() -> MeanMax:
    aggregator = MeanMax(2).eval()
    with torch.no_grad():
        aggregator.classifier.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
        aggregator.classifier.bias.copy_(torch.tensor([0.5]))
    return aggregator


def test_the_formula() -> None:
    logit, weights = made()(BAG, torch.zeros(1, 3, 3), MASK)
    assert float(logit.detach()) == pytest.approx(2 - 70 + 300 - 5000 + 0.5)
    assert weights.tolist() == [[0.25, 0.75, 0]]  # the second slice has both maxima


def test_what_is_pooled_is_standardised_by_the_training_bags() -> None:
    aggregator = made()
    aggregator.standardise([BAG[0, :2], torch.tensor([[4.0, 1.0]])])  # pooled: 2, -7, 3, -5 and 4, 1, 4, 1
    logit, _ = aggregator(BAG, torch.zeros(1, 3, 3), MASK)
    assert float(logit.detach()) == pytest.approx(-1 - 10 - 100 - 1000 + 0.5, rel=1e-4)  # one standard deviation below
    again = MeanMax(2).eval()
    again.load_state_dict(aggregator.state_dict())
    assert torch.equal(again(BAG, torch.zeros(1, 3, 3), MASK)[0], logit)
