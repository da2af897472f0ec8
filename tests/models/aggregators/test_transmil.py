from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lungtl.errors import UsageError
from lungtl.models.aggregators.transmil import TransMil
from tests.models.aggregators.cases import DIM, bags, needs_torchmil

pytestmark = needs_torchmil


@pytest.mark.parametrize("count", [1, 2, 5, 16, 40])
def test_each_bag_is_judged_as_torchmil_judges_it_alone(count: int) -> None:
    torch.manual_seed(2)
    network = TransMil(DIM, width=8, heads=2).eval()
    embeddings, slice_logits, mask = bags([count, 9])
    logits, weights = network(embeddings, slice_logits, mask)
    expected, attention = network.model(embeddings[:1, :count], return_att=True)
    torch.testing.assert_close(logits[:1], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(weights[0, :count], attention[0].abs() / attention.abs().sum(), atol=1e-6, rtol=0)


def test_negative_attention_counts_by_its_size() -> None:
    class Fixed(nn.Module):
        def forward(self, bag: Tensor, return_att: bool) -> tuple[Tensor, Tensor]:
            return torch.tensor([0.3]), torch.tensor([[0.2, -0.1, 0.1]])

    network = TransMil(DIM, width=8, heads=2)
    network.model = Fixed()
    _, weights = network(*bags([3]))
    torch.testing.assert_close(weights, torch.tensor([[0.5, 0.25, 0.25]]))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(UsageError, match=r"aggregator.heads=3 does not divide aggregator.width=128; change one"):
        TransMil(DIM, heads=3)
