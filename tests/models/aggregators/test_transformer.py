from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from lungtl.models.aggregators.transformer import Transformer, TransformerLayer, sinusoids
from lungtl.settings.errors import UsageError
from tests.models.aggregators.cases import DIM, bags, renamed


def test_a_layer_is_that_of_torch() -> None:
    torch.manual_seed(2)
    ours = TransformerLayer(8, heads=2, dropout=0.0)
    theirs = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    names = {"qkv": "self_attn.in_proj", "project": "self_attn.out_proj", "mlp.0": "linear1", "mlp.2": "linear2"}
    state = renamed(ours, names | {"norm1": "norm1", "norm2": "norm2"})
    theirs.load_state_dict({key.replace("in_proj.", "in_proj_"): value for key, value in state.items()})
    x, real = torch.randn(3, 7, 8), torch.arange(7) < torch.tensor([[7], [1], [4]])
    actual, scores = ours(x, real)
    torch.testing.assert_close(actual[real], theirs(x, src_key_padding_mask=~real)[real], atol=1e-6, rtol=1e-5)

    h = theirs.norm1(x)
    _, attention = theirs.self_attn(h, h, h, key_padding_mask=~real, average_attn_weights=False)
    first = torch.softmax(scores.masked_fill(~real[:, None], -math.inf), dim=-1)
    torch.testing.assert_close(first, attention[:, :, 0], atol=1e-6, rtol=1e-5)


def test_positions_are_encoded_as_in_the_paper() -> None:
    pe = sinusoids(torch.tensor([[0, 3, 700]]), 5)[0].numpy()
    for row, p in enumerate((0, 3, 700)):
        waves = [f(p / 10000 ** (2 * i / 5)) for i in range(3) for f in (math.sin, math.cos)]
        np.testing.assert_allclose(pe[row], waves[:5], atol=1e-4)


def test_the_class_token_is_classified_and_its_attention_gives_the_weights() -> None:
    """The forward pass around the layers."""
    torch.manual_seed(3)
    network = Transformer(DIM, width=8, layers=1, heads=2).eval()
    embeddings, slice_logits, mask = bags([5], padded_to=8, fill=9.0)
    logit, weights = network(embeddings, slice_logits, mask)

    slices = network.embed(embeddings[:, :5]) + sinusoids(torch.arange(5)[None], 8)
    x = torch.cat([network.token.expand(1, 1, 8), slices], dim=1)
    x, scores = network.layers[0](x, torch.ones(1, 6, dtype=torch.bool))
    torch.testing.assert_close(logit, network.classifier(network.norm(x[:, 0]))[:, 0], atol=1e-6, rtol=0)
    attention = torch.softmax(scores, dim=-1)[0, :, 1:]
    expected = (attention / attention.sum(dim=-1, keepdim=True)).mean(dim=0)
    torch.testing.assert_close(weights[0, :5], expected, atol=1e-6, rtol=0)


def test_the_order_comes_from_positions_only() -> None:
    network = Transformer(DIM, width=8, heads=2).eval()
    embeddings, slice_logits, mask = bags([9])
    positions = torch.tensor([[0, 4, 5, 9, 20, 21, 22, 300, 799]])
    order = torch.randperm(9)
    expected, expected_weights = network(embeddings, slice_logits, mask, positions)
    logits, weights = network(embeddings[:, order], slice_logits[:, order], mask, positions[:, order])
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights, expected_weights[:, order], atol=1e-6, rtol=0)
    assert not torch.allclose(network(embeddings, slice_logits, mask)[0], expected, atol=1e-4)


def test_without_positions_they_count_from_0() -> None:
    network = Transformer(DIM, width=8, heads=2).eval()
    embeddings, slice_logits, mask = bags([4, 2])
    positions = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]])
    counted, _ = network(embeddings, slice_logits, mask)
    given, _ = network(embeddings, slice_logits, mask, positions)
    assert torch.equal(counted, given)


def test_equal_slices_at_one_place_weigh_the_same() -> None:
    network = Transformer(DIM, width=8, heads=2).eval()
    embeddings, slice_logits, mask = (part.repeat(1, 800, *[1] * (part.ndim - 2)) for part in bags([1]))
    _, weights = network(embeddings, slice_logits, mask, torch.zeros(1, 800, dtype=torch.int64))
    torch.testing.assert_close(weights, torch.full((1, 800), 1 / 800), atol=1e-7, rtol=0)


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(UsageError, match=r"aggregator.heads=5 does not divide aggregator.width=64; change one"):
        Transformer(128, heads=5)
