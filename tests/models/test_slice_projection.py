from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lungtl.models.slice_projection import SliceProjection, Standardise
from tests.together import together


def test_the_formula() -> None:
    torch.manual_seed(0)
    projection = SliceProjection(5, 3, dropout=0.0).train()
    embeddings = 100 * torch.randn(50, 5) + 7
    h = projection(embeddings).detach().numpy()
    e = embeddings.numpy()
    standardised = (e - e.mean(0)) / np.sqrt(e.var(0) + 1e-5)
    assert projection.linear is not None
    weight, bias = (p.detach().numpy() for p in projection.linear.parameters())
    np.testing.assert_allclose(h, np.maximum(standardised @ weight.T + bias, 0), atol=1e-5)


@pytest.mark.parametrize("scale", [1e-2, 1e3])
def test_the_scale_of_a_backbones_embeddings_does_not_matter(scale: float) -> None:
    torch.manual_seed(0)
    projection = SliceProjection(5, 3, dropout=0.0).train()
    embeddings = 10 * torch.randn(50, 5)
    torch.testing.assert_close(projection(scale * embeddings), projection(embeddings), atol=2e-3, rtol=0)


def test_a_single_slice_trains_with_the_running_statistics() -> None:
    projection = SliceProjection(4, 2, dropout=0.0)
    for _ in range(50):
        projection.train()(3 * torch.randn(64, 4) + 1)
    one = torch.randn(1, 4)
    mean = projection.standardise.running_mean
    before = None if mean is None else mean.clone()
    assert torch.equal(projection.train()(one), projection.eval()(one))
    assert torch.equal(torch.as_tensor(before), torch.as_tensor(projection.standardise.running_mean))


def test_dropout_is_used_only_in_training() -> None:
    projection = SliceProjection(4, 32, dropout=0.5)
    embeddings = torch.randn(8, 4)
    assert torch.equal(projection.eval()(embeddings), projection.eval()(embeddings))
    assert not torch.equal(projection.train()(embeddings), projection.train()(embeddings))


def test_fixed_statistics_are_those_of_all_bags_also_in_training() -> None:
    torch.manual_seed(0)
    bags = [100 + torch.randn(n, 4) * torch.tensor([0.1, 1.0, 10.0, 0.0]) for n in (3, 1, 8)]
    rows = torch.cat(bags)
    norm = Standardise(4).train()
    norm.fix(iter(bags))
    expected = (rows - rows.double().mean(dim=0)) / (rows.double().var(dim=0, correction=0) + 1e-5).sqrt()
    for part, wanted in ((rows, expected), (bags[1], expected[3:4])):
        torch.testing.assert_close(norm(part), wanted.float(), atol=1e-2, rtol=1e-3)
    assert torch.equal(norm.eval()(rows), norm.train()(rows))
    other = Standardise(4).train()
    other.load_state_dict(norm.state_dict())
    assert torch.equal(other.eval()(rows), norm(rows))


def test_without_a_width_embeddings_are_only_standardised() -> None:
    projection = SliceProjection(5, None, dropout=0.5).train()
    embeddings = 100 * torch.randn(50, 5) + 7
    assert projection.width == 5
    assert not list(projection.parameters())
    torch.testing.assert_close(projection(embeddings), Standardise(5).train()(embeddings))


SHARES = [slice(0, 3), slice(3, 11)]


def standardised(rows: torch.Tensor, part: slice, weights: torch.Tensor) -> dict[str, Any]:
    """Two training steps of batch norm: results, gradients (of a weighted sum), running statistics."""
    norm = Standardise(rows.shape[1]).train()
    x = rows.clone().requires_grad_()
    norm(x[part] / 2)
    found = norm(x[part])
    (weights[part] * found).sum().backward()
    return {"found": found.detach(), "grad": x.grad, "state": norm.state_dict()}


def test_several_processes_standardise_with_the_statistics_of_all_slices(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = 1000 + 3 * torch.randn(11, 4)  # a mean far from 0: sums of squares would lose it
    weights = torch.randn(11, 4)
    shares = together(tmp_path, lambda rank: standardised(rows, SHARES[rank], weights))

    oracle = torch.nn.BatchNorm1d(4, affine=False, dtype=torch.float64).train()
    x = rows.double().requires_grad_()
    oracle(x / 2)
    expected = oracle(x)
    (weights * expected).sum().backward()
    found = torch.cat([share["found"] for share in shares])
    torch.testing.assert_close(found.double(), expected.detach(), atol=1e-3, rtol=0)
    torch.testing.assert_close(sum(share["grad"] for share in shares).double(), x.grad, atol=1e-3, rtol=0)
    for share in shares:
        assert share["state"].keys() == oracle.state_dict().keys()
        for key, value in oracle.state_dict().items():
            torch.testing.assert_close(share["state"][key].double(), value.double(), atol=0, rtol=1e-5)


def test_a_rank_with_a_single_slice_takes_part(tmp_path: Path) -> None:
    rows = torch.tensor([[1.0], [3.0]])

    def share(rank: int) -> torch.Tensor:
        found: torch.Tensor = Standardise(1).train()(rows[rank : rank + 1])
        return found

    # of 1 and 3: mean 2, variance 1
    assert torch.cat(together(tmp_path, share)).flatten().tolist() == pytest.approx([-1, 1], abs=1e-4)


def test_evaluation_needs_no_communication(tmp_path: Path) -> None:
    def alone(rank: int) -> torch.Tensor:
        return Standardise(2).eval()(torch.ones(1, 2)) if rank == 0 else torch.zeros(1, 2)

    assert together(tmp_path, alone)[0].flatten().tolist() == pytest.approx([1, 1], abs=1e-4)
