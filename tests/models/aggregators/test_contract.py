"""What every aggregator promises, whatever its formula."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from lungtl.settings import folders, parts
from tests.models.aggregators.cases import KINDS, bags, built, kinds

LENGTHS = [4, 1, 7]
CONFIGS = sorted((folders.conf_dir() / "aggregator").glob("*.yaml"))

every_kind = kinds(lambda kind: True)


def close(actual: Tensor, expected: Tensor) -> None:
    """Equal to 1e-6 of the value, or of 1 where it is smaller."""
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


def test_every_config_is_in_the_table() -> None:
    assert {path.stem for path in CONFIGS} == {name.partition("-")[0] for name in KINDS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_states_every_option_of_its_class(path: Path) -> None:
    options = {str(key): value for key, value in OmegaConf.load(path).items()}
    parts.check(options, "aggregator", frozenset({"dim"}))
    known = parts.signature(options[parts.TARGET], "aggregator")
    assert options.keys() == known.keys() - {"dim"} | {parts.TARGET}
    assert options[parts.TARGET].split(".")[-2] == path.stem


@every_kind
@pytest.mark.parametrize("garbage", [1e30, -1e30, math.inf, math.nan])
def test_padding_does_not_change_the_result(name: str, garbage: float) -> None:
    aggregator = built(name)
    expected_logits, expected_weights = aggregator(*bags(LENGTHS))
    embeddings, slice_logits, mask = bags(LENGTHS, padded_to=12, fill=garbage)
    logits, weights = aggregator(embeddings, slice_logits, mask)
    close(logits, expected_logits)
    close(weights[:, :7], expected_weights)
    assert (weights[~mask] == 0).all()


@every_kind
def test_a_bags_result_does_not_depend_on_its_batch(name: str) -> None:
    aggregator = built(name)
    embeddings, slice_logits, mask = bags(LENGTHS)
    together, weights = aggregator(embeddings, slice_logits, mask)
    for row, count in enumerate(LENGTHS):
        one = (embeddings[row : row + 1, :count], slice_logits[row : row + 1, :count], mask[row : row + 1, :count])
        alone, weights_alone = aggregator(*one)
        close(alone, together[row : row + 1])
        close(weights_alone[0], weights[row, :count])


@every_kind
def test_slice_logits_are_used_exactly_if_declared(name: str) -> None:
    aggregator = built(name)
    embeddings, slice_logits, mask = bags(LENGTHS)
    logits, _ = aggregator(embeddings, slice_logits, mask)
    others, _ = aggregator(embeddings, slice_logits.flip(-1), mask)
    assert aggregator.uses_slice_logits == (not torch.equal(logits, others))


@kinds(lambda kind: not kind.in_order)
def test_the_order_of_the_slices_does_not_matter(name: str) -> None:
    aggregator = built(name)
    assert not aggregator.order_matters
    embeddings, slice_logits, mask = bags([9])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    expected, expected_weights = aggregator(embeddings, slice_logits, mask)
    logits, weights = aggregator(embeddings[:, order], slice_logits[:, order], mask)
    close(logits, expected)
    close(weights, expected_weights[:, order])


@kinds(lambda kind: kind.in_order)
def test_order_matters_exactly_if_declared(name: str) -> None:
    aggregator = built(name)
    assert aggregator.order_matters
    embeddings, slice_logits, mask = bags([9])
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, expected_weights = aggregator(embeddings, slice_logits, mask)
        logits, weights = aggregator(embeddings[:, order], slice_logits[:, order], mask)
    assert abs(float(logits - expected)) > 1e-4
    assert float((weights - expected_weights[:, order]).abs().max()) > 1e-4


@every_kind
def test_weights_are_shares(name: str) -> None:
    logits, weights = built(name)(*bags([1, 2, 30, 800]))
    assert logits.isfinite().all()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(4), atol=1e-5, rtol=0)


@every_kind
def test_a_single_slice_has_all_the_weight(name: str) -> None:
    _, weights = built(name)(*bags([1], padded_to=3))
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.0, 0.0]]))


@kinds(lambda kind: not kind.counts)
def test_equal_slices_have_the_result_of_one(name: str) -> None:
    aggregator = built(name)
    embeddings, slice_logits, mask = bags([1])
    expected, _ = aggregator(embeddings, slice_logits, mask)
    for count in (2, 800):
        repeated = (embeddings.repeat(1, count, 1), slice_logits.repeat(1, count, 1), mask.repeat(1, count))
        logits, weights = aggregator(*repeated)
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
        if KINDS[name].all_learn:  # a tie has k winners
            torch.testing.assert_close(weights, torch.full((1, count), 1 / count), atol=1e-7, rtol=0)


@every_kind
def test_extreme_logits_and_embeddings_stay_finite(name: str) -> None:
    aggregator = built(name)
    embeddings, slice_logits, mask = bags([5, 3], padded_to=6)
    for scale in (1e-30, 300.0, 1e4):
        scaled = embeddings.mul(scale).requires_grad_(), slice_logits.mul(scale).requires_grad_()
        logits, weights = aggregator(*scaled, mask)
        assert torch.isfinite(logits).all()
        assert torch.isfinite(weights).all()
        logits.sum().backward()
        assert all(part.grad is None or torch.isfinite(part.grad).all() for part in scaled)


@every_kind
def test_mixed_precision_is_close_to_float32(name: str) -> None:
    aggregator = built(name)
    embeddings, slice_logits, mask = bags([1, 30, 300])
    expected, expected_weights = aggregator(embeddings.bfloat16().float(), slice_logits.bfloat16().float(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        logits, weights = aggregator(embeddings.bfloat16(), slice_logits.bfloat16(), mask)
    torch.testing.assert_close(logits.float(), expected, atol=0.03, rtol=0.01)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights, expected_weights, atol=0.005, rtol=0.05)


@every_kind
def test_gradients_are_finite_and_none_reaches_padding(name: str) -> None:
    aggregator = built(name)
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


@every_kind
def test_the_logit_comes_from_what_the_formula_reads(name: str) -> None:
    embeddings, slice_logits, mask = bags([5, 2])
    inputs = {"embeddings": embeddings.requires_grad_(), "slice_logits": slice_logits.requires_grad_()}
    built(name)(*inputs.values(), mask)[0].sum().backward()
    assert [key for key, part in inputs.items() if part.grad is not None] == [KINDS[name].reads]
    if KINDS[name].all_learn:
        gradient = inputs[KINDS[name].reads].grad
        assert gradient is not None
        assert (gradient[mask].abs().sum(dim=-1) > 1e-8).all()
