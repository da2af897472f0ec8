"""Bags for the aggregators' tests, and the table of all aggregators that hold the contract."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from lungtl.models.aggregators.attention import Attention
from lungtl.models.aggregators.base import Aggregator
from lungtl.models.aggregators.clam import Clam
from lungtl.models.aggregators.conv1d import Conv1d
from lungtl.models.aggregators.dsmil import Dsmil
from lungtl.models.aggregators.gated_attention import GatedAttention
from lungtl.models.aggregators.gru import Gru
from lungtl.models.aggregators.lse import Lse
from lungtl.models.aggregators.max import Max
from lungtl.models.aggregators.mean import Mean
from lungtl.models.aggregators.mean_max import MeanMax
from lungtl.models.aggregators.multi_head import MultiHead
from lungtl.models.aggregators.noisy_or import NoisyOr
from lungtl.models.aggregators.sm_attention import SmAttention
from lungtl.models.aggregators.top_k import TopK
from lungtl.models.aggregators.transformer import Transformer
from lungtl.models.aggregators.transmil import TransMil

DIM = 6

needs_torchmil = pytest.mark.skipif(importlib.util.find_spec("torchmil") is None, reason="pip install 'lungtl[mil]'")


@dataclass(frozen=True)
class Kind:
    """An aggregator and what its formula claims.

    Attributes:
        build: makes one for embeddings of size DIM.
        reads: which input the bag's logit comes from.
        in_order: the slices' order changes the result.
        all_learn: a gradient reaches every slice, not only the chosen ones.
        counts: more copies of a slice change the result.
    """

    build: Callable[[], Aggregator]
    reads: Literal["embeddings", "slice_logits"] = "embeddings"
    in_order: bool = False
    all_learn: bool = True
    counts: bool = False


KINDS = {
    "mean-embedding": Kind(lambda: Mean(DIM, "embedding")),
    "mean-instance": Kind(lambda: Mean(DIM, "instance"), "slice_logits"),
    "max-embedding": Kind(lambda: Max(DIM, "embedding"), all_learn=False),
    "max-instance": Kind(lambda: Max(DIM, "instance"), "slice_logits", all_learn=False),
    "mean_max": Kind(lambda: MeanMax(DIM)),
    "noisy_or": Kind(lambda: NoisyOr(DIM), "slice_logits", counts=True),
    "lse-embedding": Kind(lambda: Lse(DIM, "embedding", temperature=0.7)),
    "lse-instance": Kind(lambda: Lse(DIM, "instance", temperature=2.0), "slice_logits"),
    "top_k-embedding": Kind(lambda: TopK(DIM, "embedding", k=3), all_learn=False),
    "top_k-instance": Kind(lambda: TopK(DIM, "instance", k=3), "slice_logits", all_learn=False),
    "attention": Kind(lambda: Attention(DIM, hidden=5)),
    "gated_attention": Kind(lambda: GatedAttention(DIM, hidden=5)),
    "multi_head": Kind(lambda: MultiHead(DIM, heads=3, hidden=5)),
    "transformer": Kind(lambda: Transformer(DIM, width=8, heads=2), in_order=True, counts=True),
    "conv1d": Kind(lambda: Conv1d(DIM, hidden=5), in_order=True, counts=True),
    "gru": Kind(lambda: Gru(DIM, state=4, layers=2, hidden=5), in_order=True, counts=True),
    "clam": Kind(lambda: Clam(DIM, hidden=5)),
    "dsmil": Kind(lambda: Dsmil(DIM, hidden=5)),
    "transmil": Kind(lambda: TransMil(DIM, width=8, heads=2), in_order=True, counts=True),
    "sm_attention": Kind(lambda: SmAttention(DIM, hidden=5, steps=3), in_order=True, counts=True),
}
"""Every aggregator, by the name of its YAML and, behind a dash, its level."""

OF_TORCHMIL = {"clam", "dsmil", "transmil", "sm_attention"}


def kinds(claims: Callable[[Kind], bool]) -> pytest.MarkDecorator:
    """Run a test with the `name` of each aggregator that claims something."""
    names = [
        pytest.param(name, marks=[needs_torchmil] if name in OF_TORCHMIL else [])
        for name, kind in KINDS.items()
        if claims(kind)
    ]
    return pytest.mark.parametrize("name", names)


def built(name: str) -> Aggregator:
    """The aggregator of the table, in evaluation mode and the same at each call."""
    torch.manual_seed(1)
    return KINDS[name].build().eval()


def bags(lengths: list[int], seed: int = 0, padded_to: int = 0, fill: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings [B, S, DIM], slice logits [B, S, 3] and the mask; `fill` stands at padded places."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(*lengths, padded_to) if lengths else padded_to
    embeddings = torch.full((len(lengths), longest, DIM), fill)
    logits = torch.full((len(lengths), longest, 3), fill)
    mask = torch.zeros(len(lengths), longest, dtype=torch.bool)
    for row, count in enumerate(lengths):
        embeddings[row, :count] = torch.randn(count, DIM, generator=generator)
        logits[row, :count] = 3 * torch.randn(count, 3, generator=generator)
        mask[row, :count] = True
    return embeddings, logits, mask


def equal_slices(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """A bag of so many copies of one slice."""
    embeddings, logits, mask = bags([1])
    return embeddings.repeat(1, count, 1), logits.repeat(1, count, 1), mask.repeat(1, count)


def renamed(module: nn.Module, names: dict[str, str]) -> dict[str, Tensor]:
    """A module's parameters under the names that another implementation gives its layers."""
    parts = ((*key.rpartition("."), value) for key, value in module.state_dict().items())
    return {f"{names[layer]}.{kind}": value for layer, _, kind, value in parts}
