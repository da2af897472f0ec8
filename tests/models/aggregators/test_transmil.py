from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lungtl.models.aggregators.transmil import TransMil
from lungtl.settings.errors import UsageError
from tests.models.aggregators.cases import DIM, bags, equal_slices, needs_torchmil

pytestmark = needs_torchmil


@pytest.mark.parametrize("count", [1, 2, 5, 16, 40])
def test_each_bag_has_torchmils_result_for_it_alone(count: int) -> None:
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


@pytest.mark.parametrize("count", [2, 4, 5, 16, 30])
def test_equal_slices_differ_only_by_their_position_on_the_square(count: int) -> None:
    torch.manual_seed(1)
    network = TransMil(DIM, width=8, heads=2).eval()
    with torch.no_grad():
        placed = network(*equal_slices(count))[1]
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.zero_()
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        alike = network(*equal_slices(count))[1]
    assert float((placed * count - 1).abs().max()) > 1e-3
    torch.testing.assert_close(alike, torch.full((1, count), 1 / count))
