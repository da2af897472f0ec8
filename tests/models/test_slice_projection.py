from __future__ import annotations

import numpy as np
import pytest
import torch

from lungtl.models.slice_projection import SliceProjection


def test_the_formula() -> None:
    torch.manual_seed(0)
    projection = SliceProjection(5, 3, dropout=0.0).train()
    embeddings = 100 * torch.randn(50, 5) + 7
    h = projection(embeddings).detach().numpy()
    e = embeddings.numpy()
    standardised = (e - e.mean(0)) / np.sqrt(e.var(0) + 1e-5)
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


def test_dropout_is_for_training_alone() -> None:
    projection = SliceProjection(4, 32, dropout=0.5)
    embeddings = torch.randn(8, 4)
    assert torch.equal(projection.eval()(embeddings), projection.eval()(embeddings))
    assert not torch.equal(projection.train()(embeddings), projection.train()(embeddings))
