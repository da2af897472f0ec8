"""What every aggregator promises, whatever its formula."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from lungtl.models.aggregators.attention import Attention
from lungtl.models.aggregators.base import Aggregator
from lungtl.models.aggregators.gated_attention import GatedAttention
from lungtl.models.aggregators.max import Max
from lungtl.models.aggregators.mean import Mean
from tests.models.aggregators.cases import DIM, bags

KINDS: dict[str, Callable[[], Aggregator]] = {
    "mean-embedding": lambda: Mean(DIM, "embedding"),
    "mean-instance": lambda: Mean(DIM, "instance"),
    "max-embedding": lambda: Max(DIM, "embedding"),
    "max-instance": lambda: Max(DIM, "instance"),
    "attention": lambda: Attention(DIM, hidden=5),
    "gated_attention": lambda: GatedAttention(DIM, hidden=5),
}
LENGTHS = [4, 1, 7]


@pytest.fixture(params=KINDS)
def aggregator(request: pytest.FixtureRequest) -> Aggregator:
    torch.manual_seed(1)
    return KINDS[request.param]().eval()


@pytest.mark.parametrize("garbage", [1e30, -1e30, math.inf, math.nan])
def test_what_stands_at_padded_places_changes_nothing(aggregator: Aggregator, garbage: float) -> None:
    expected_logits, expected_weights = aggregator(*bags(LENGTHS))
    embeddings, slice_logits, mask = bags(LENGTHS, padded_to=12, fill=garbage)
    logits, weights = aggregator(embeddings, slice_logits, mask)
    torch.testing.assert_close(logits, expected_logits, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights[:, :7], expected_weights, atol=1e-6, rtol=0)
    assert (weights[~mask] == 0).all()


def test_a_bag_is_judged_as_if_it_were_alone(aggregator: Aggregator) -> None:
    embeddings, slice_logits, mask = bags(LENGTHS)
    together, weights = aggregator(embeddings, slice_logits, mask)
    for row, count in enumerate(LENGTHS):
        one = (embeddings[row : row + 1, :count], slice_logits[row : row + 1, :count], mask[row : row + 1, :count])
        alone, weights_alone = aggregator(*one)
        torch.testing.assert_close(alone, together[row : row + 1], atol=1e-6, rtol=0)
        torch.testing.assert_close(weights_alone[0], weights[row, :count], atol=1e-6, rtol=0)


def test_the_order_of_the_slices_does_not_matter(aggregator: Aggregator) -> None:
    assert not aggregator.order_matters
    embeddings, slice_logits, mask = bags([9])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    expected, expected_weights = aggregator(embeddings, slice_logits, mask)
    logits, weights = aggregator(embeddings[:, order], slice_logits[:, order], mask)
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights, expected_weights[:, order], atol=1e-6, rtol=0)


def test_weights_are_shares(aggregator: Aggregator) -> None:
    _, weights = aggregator(*bags([1, 2, 30, 800]))
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4), atol=1e-5, rtol=0)


def test_a_single_slice_has_all_the_weight(aggregator: Aggregator) -> None:
    _, weights = aggregator(*bags([1], padded_to=3))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.0, 0.0]]))


def test_a_bag_of_equal_slices_is_judged_as_one_of_them(aggregator: Aggregator) -> None:
    embeddings, slice_logits, mask = bags([1])
    expected, _ = aggregator(embeddings, slice_logits, mask)
    for count in (2, 800):
        repeated = (embeddings.repeat(1, count, 1), slice_logits.repeat(1, count, 1), mask.repeat(1, count))
        logits, weights = aggregator(*repeated)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        if not isinstance(aggregator, Max):  # a tie has one winner
            torch.testing.assert_close(weights, torch.full((1, count), 1 / count), atol=1e-7, rtol=0)


def test_extreme_logits_and_embeddings_stay_finite(aggregator: Aggregator) -> None:
    embeddings, slice_logits, mask = bags([5, 3], padded_to=6)
    for scale in (1e-30, 300.0, 1e4):
        scaled = embeddings.mul(scale).requires_grad_(), slice_logits.mul(scale).requires_grad_()
        logits, weights = aggregator(*scaled, mask)
        assert torch.isfinite(logits).all()
        assert torch.isfinite(weights).all()
        logits.sum().backward()
        assert all(part.grad is None or torch.isfinite(part.grad).all() for part in scaled)


def test_gradients_are_finite_and_none_reaches_padding(aggregator: Aggregator) -> None:
    embeddings, slice_logits, mask = bags([4, 1], padded_to=6, fill=1e4)
    inputs = embeddings.requires_grad_(), slice_logits.requires_grad_()
    logits, _ = aggregator(*inputs, mask)
    logits.square().sum().backward()
    reached = [part.grad for part in inputs if part.grad is not None]
    assert reached
    for gradient in reached:
        assert torch.isfinite(gradient).all()
        assert (gradient[~mask] == 0).all()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in aggregator.parameters())


@pytest.mark.parametrize("name", ["mean-embedding", "mean-instance", "attention", "gated_attention"])
def test_every_real_slice_learns(name: str) -> None:
    torch.manual_seed(1)
    embeddings, slice_logits, mask = bags([5, 2])
    inputs = embeddings.requires_grad_(), slice_logits.requires_grad_()
    logits, _ = KINDS[name]().eval()(*inputs, mask)
    logits.sum().backward()
    gradient = inputs[1 if name == "mean-instance" else 0].grad
    assert gradient is not None
    assert (gradient[mask].abs().sum(dim=-1) > 1e-8).all()
