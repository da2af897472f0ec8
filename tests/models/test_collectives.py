from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lungtl.models.collectives import all_gather, all_reduce_sum, average_batch_norm_statistics, rank, world_size
from tests.together import together


def test_no_ops_in_a_single_process() -> None:
    value, layers = torch.tensor([1.0, 2.0]), network(0)
    before = {key: tensor.clone() for key, tensor in layers.state_dict().items()}
    average_batch_norm_statistics(layers)
    assert (world_size(), rank(), all_gather("a")) == (1, 0, ["a"])
    assert all_reduce_sum(value) is value
    assert all(torch.equal(before[key], tensor) for key, tensor in layers.state_dict().items())


def test_sums_and_values_of_three_ranks(tmp_path: Path) -> None:
    def collect(own: int) -> dict[str, Any]:
        value = torch.tensor([1.0, 10.0]) * (own + 1)
        before = value.clone()
        return {
            "rank": (world_size(), rank()), "sum": all_reduce_sum(value), "unchanged": torch.equal(value, before),
            "lists": all_gather([own] * own),
        }  # fmt: skip

    for own, found in enumerate(together(tmp_path, collect, 3)):
        assert found["rank"] == (3, own)
        assert found["sum"].tolist() == [6.0, 60.0]
        assert found["unchanged"]
        assert found["lists"] == [[], [1], [2, 2]]


def test_the_gradient_of_a_sum_reaches_every_rank(tmp_path: Path) -> None:
    """Of the sum over r of (r + 1) * (sum_q x_q)^2 by each x_q: 2 * (1 + 2) * sum_q x_q."""

    def gradient(own: int) -> torch.Tensor:
        x = torch.tensor(2.0 + own, requires_grad=True)
        ((own + 1) * all_reduce_sum(x).square()).backward()
        assert x.grad is not None
        return x.grad

    assert [float(g) for g in together(tmp_path, gradient)] == [30.0, 30.0]


def network(own: int) -> nn.Sequential:
    """A frozen, a trainable and a partly frozen batch norm, whose statistics depend on the rank."""
    frozen, _, half = layers = [nn.BatchNorm1d(1) for _ in range(3)]
    frozen.requires_grad_(False)
    half.bias.requires_grad_(False)
    for layer in layers:
        layer.load_state_dict(
            {"running_mean": torch.tensor([own + 0.1]), "running_var": torch.tensor([2 * (own + 0.1)])}, strict=False
        )
    return nn.Sequential(*layers)


def test_only_trainable_batch_norms_are_averaged(tmp_path: Path) -> None:
    def averaged(own: int) -> dict[str, Tensor]:
        layers = network(own)
        average_batch_norm_statistics(layers)
        return {key: value for key, value in layers.state_dict().items() if "running" in key}

    for own, found in enumerate(together(tmp_path, averaged, 3)):
        own_mean = torch.tensor([own + 0.1])
        for key in ("0", "2"):  # bit for bit: a third of the sum of three equal numbers may differ from them
            assert torch.equal(found[f"{key}.running_mean"], own_mean)
            assert torch.equal(found[f"{key}.running_var"], 2 * own_mean)
        torch.testing.assert_close(found["1.running_mean"], torch.tensor([1.1]))
        torch.testing.assert_close(found["1.running_var"], torch.tensor([2.2]))
