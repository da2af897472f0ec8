"""Attention weights that are supervised with the nodule slices."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from lungtl.models.aggregators.attention import Attention
from lungtl.models.bag_classifier import BagOutput
from lungtl.settings.errors import UsageError
from lungtl.training.losses import BagAndSliceLoss

# Attention supervision: bag 0 has two nodule slices, one without and one of unknown label; bag 1 has no slice without
# a nodule; bag 2 ends with padding.
WEIGHTS = torch.tensor([[0.2, 0.1, 0.3, 0.4], [0.5, 0.5, 0.0, 0.0], [0.25, 0.75, 0.0, 0.0]])
KINDS = torch.tensor([[2, 1, 0, -1], [2, 2, -1, -1], [0, 1, -1, -1]])


def attention_loss(weights: torch.Tensor, kinds: torch.Tensor = KINDS) -> torch.Tensor:
    output = BagOutput(torch.zeros(len(kinds)), weights, torch.zeros(*kinds.shape, 3))
    losses = BagAndSliceLoss(0.0, attention_weight=1.0)(output, torch.zeros(len(kinds), dtype=torch.long), kinds)
    found: torch.Tensor = losses["attention_loss"]
    return found


def test_attention_supervision_by_hand() -> None:
    first = -(math.log(2 * 0.2 / 0.6) + math.log(2 * 0.1 / 0.6)) / 2
    third = -math.log(0.75)
    assert float(attention_loss(WEIGHTS)) == pytest.approx((first + third) / 2)


def test_attention_loss_is_0_on_nodule_slices_and_large_elsewhere() -> None:
    kinds = torch.tensor([[2, 0, 0]])
    assert float(attention_loss(torch.tensor([[1.0, 0.0, 0.0]]), kinds)) == pytest.approx(0, abs=1e-6)
    wrong = attention_loss(torch.tensor([[0.0, 1.0, 0.0]]), kinds)
    assert 80 < float(wrong) < math.inf


def test_attention_loss_is_0_only_if_all_nodule_slices_share_it() -> None:
    kinds = torch.tensor([[2, 0, 1, -1]])
    assert float(attention_loss(torch.tensor([[0.3, 0.0, 0.3, 0.4]]), kinds)) == pytest.approx(0, abs=1e-6)
    # of 0.75 and 0.25: (log(0.5 / 0.75) + log(0.5 / 0.25)) / 2
    uneven = attention_loss(torch.tensor([[0.75, 0.0, 0.25, 0.0]]), kinds)
    assert float(uneven) == pytest.approx(math.log(4 / 3) / 2)


def test_weights_of_unlabelled_slices_and_padding_do_not_matter() -> None:
    longer = F.pad(WEIGHTS, (0, 2)), F.pad(KINDS, (0, 2), value=-1)
    torch.testing.assert_close(attention_loss(*longer), attention_loss(WEIGHTS))
    less = WEIGHTS.clone()
    less[0] = torch.tensor([0.1, 0.05, 0.15, 0.7])  # the same among the known
    torch.testing.assert_close(attention_loss(less), attention_loss(WEIGHTS))


def test_attention_supervision_requires_both_kinds_of_slices() -> None:
    kinds = torch.tensor([[2, 1, -1, -1], [0, 0, 0, -1], [-1, -1, -1, -1]])
    output = BagOutput(torch.zeros(3), WEIGHTS, torch.zeros(3, 4, 3))
    losses = BagAndSliceLoss(0.0, attention_weight=1.0)(output, torch.tensor([0, 1, 1]), kinds)
    assert losses.keys() == {"loss", "bag_loss"}
    assert float(losses["loss"]) == pytest.approx(math.log(2))


def test_its_gradient_reaches_the_attention_net_alone_and_moves_weight_to_the_nodule() -> None:
    torch.manual_seed(0)
    aggregator = Attention(dim=4, hidden=8)
    embeddings, mask = torch.randn(3, 4, 4), torch.ones(3, 4, dtype=torch.bool)
    optimizer = torch.optim.SGD(aggregator.parameters(), lr=1.0)
    loss = BagAndSliceLoss(0.0, attention_weight=1.0)
    for _ in range(200):
        bag_logits, weights = aggregator(embeddings, torch.zeros(3, 4, 3), mask)
        optimizer.zero_grad()
        loss(BagOutput(bag_logits, weights, torch.zeros(3, 4, 3)), torch.tensor([0, 1, 1]), KINDS)[
            "attention_loss"
        ].backward()
        optimizer.step()
    assert aggregator.classifier.weight.grad is None
    _, after = aggregator(embeddings, torch.zeros(3, 4, 3), mask)
    assert after[0, :2].sum() / after[0, :3].sum() > 0.95
    assert abs(float((after[0, 0] / after[0, 1]).detach()) - 1) < 0.2  # both nodule slices alike
    assert after[2, 1] / after[2, :2].sum() > 0.95


def test_an_aggregator_that_learns_no_weights_cannot_be_supervised() -> None:
    output = BagOutput(torch.zeros(3, requires_grad=True), WEIGHTS, torch.zeros(3, 4, 3))
    with pytest.raises(UsageError, match=r"loss\.attention_weight=0\.5: .*aggregator=attention"):
        BagAndSliceLoss(attention_weight=0.5)(output, torch.tensor([0, 1, 1]), KINDS)
