from __future__ import annotations

import torch

from lungtl.models.aggregators.attention import Attention
from lungtl.models.aggregators.clam import Clam
from lungtl.models.aggregators.gated_attention import GatedAttention
from tests.models.aggregators.cases import DIM, bags, needs_torchmil, renamed

pytestmark = needs_torchmil


def test_it_is_gated_attention() -> None:
    ours, clam = GatedAttention(DIM, hidden=5), Clam(DIM, hidden=5)
    names = {"features": "pool.fc1.module", "gate": "pool.fc_gated.module", "score": "pool.fc2"}
    clam.model.load_state_dict(renamed(ours, names | {"classifier": "classifier.module"}))
    inputs = bags([6, 1, 4])
    for actual, expected in zip(clam(*inputs), ours(*inputs), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)


def test_without_a_gate_it_is_attention() -> None:
    ours, clam = Attention(DIM, hidden=5), Clam(DIM, hidden=5, gated=False)
    names = {"attention.0": "pool.fc1.module", "attention.2": "pool.fc2", "classifier": "classifier.module"}
    clam.model.load_state_dict(renamed(ours, names))
    inputs = bags([6, 1, 4])
    for actual, expected in zip(clam(*inputs), ours(*inputs), strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
