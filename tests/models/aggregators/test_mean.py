from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lungtl.models.aggregators.mean import Mean

ALL = torch.ones(1, 3, dtype=torch.bool)


def test_instance_is_the_mean_of_the_malignant_probabilities() -> None:
    # softmax: 1/4, 1/2 and 3/5 malignant
    odds = torch.tensor([[[2.0, 1.0, 1.0], [0.5, 0.5, 1.0], [1.0, 1.0, 3.0]]])
    logit, weights = Mean(2, "instance")(torch.zeros(1, 3, 2), odds.log(), ALL)
    assert float(logit.sigmoid()) == pytest.approx((1 / 4 + 1 / 2 + 3 / 5) / 3, abs=1e-6)
    assert weights[0].tolist() == pytest.approx([1 / 3] * 3)


def test_instance_keeps_logits_that_probabilities_would_round() -> None:
    # p = e^-60 and p = 1 - e^-60: in float32 both the mean and its complement would be 0 or 1
    sure = torch.tensor([[[0.0, -1e9, 60.0], [0.0, -1e9, 60.0]]])
    mask = torch.ones(1, 2, dtype=torch.bool)
    for sign in (1, -1):
        flipped = torch.stack([sure[..., 0], sure[..., 1], sign * sure[..., 2]], dim=-1)
        logit, _ = Mean(2, "instance")(torch.zeros(1, 2, 2), flipped, mask)
        assert float(logit) == pytest.approx(sign * 60, abs=1e-4)


def test_embedding_is_a_linear_classifier_on_the_mean() -> None:
    mean = Mean(2, "embedding")
    classifier = mean.classifier
    assert classifier is not None
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[2.0, -1.0]]))
        classifier.bias.copy_(torch.tensor([0.5]))
    embeddings: Tensor = torch.tensor([[[1.0, 0.0], [3.0, 3.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    logit, weights = mean(embeddings, torch.zeros(1, 3, 3), mask)
    assert float(logit) == pytest.approx(2 * 2.0 - 1.5 + 0.5)  # the mean is (2, 1.5)
    np.testing.assert_allclose(weights.numpy(), [[0.5, 0.5, 0.0]])
