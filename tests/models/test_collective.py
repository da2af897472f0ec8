from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lungtl.models.collective import gathered, processes, rank, summed, total_count
from tests.together import together

CPU = torch.device("cpu")


def test_one_process_hears_itself() -> None:
    value = torch.tensor([1.0, 2.0])
    assert (processes(), rank(), total_count(3, CPU), gathered("a")) == (1, 0, 3, ["a"])
    assert summed(value) is value


def test_sums_and_values_of_three(tmp_path: Path) -> None:
    def told(own: int) -> dict[str, Any]:
        value = torch.tensor([1.0, 10.0]) * (own + 1)
        kept = value.clone()
        return {
            "who": (processes(), rank()), "sum": summed(value), "unchanged": torch.equal(value, kept),
            "count": total_count(own + 2, CPU), "lists": gathered([own] * own),
        }  # fmt: skip

    for own, found in enumerate(together(tmp_path, told, 3)):
        assert found["who"] == (3, own)
        assert found["sum"].tolist() == [6.0, 60.0]
        assert found["unchanged"]
        assert found["count"] == 9
        assert found["lists"] == [[], [1], [2, 2]]


def test_the_gradient_of_a_sum_reaches_every_process(tmp_path: Path) -> None:
    """Of the sum over r of (r + 1) * (sum_q x_q)^2 by each x_q: 2 * (1 + 2) * sum_q x_q."""

    def gradient(own: int) -> torch.Tensor:
        x = torch.tensor(2.0 + own, requires_grad=True)
        ((own + 1) * summed(x).square()).backward()
        assert x.grad is not None
        return x.grad

    assert [float(g) for g in together(tmp_path, gradient)] == [30.0, 30.0]
