"""A transformer over the slices with a class token."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from lungtl.models.aggregators.base import Aggregator, masked_softmax
from lungtl.settings.errors import UsageError


class Transformer(Aggregator):
    """Self-attention between the slices and a class token, from which the scan is classified.

    x = [c, E h_1 + e + pe(z_1), ..., E h_S + e + pe(z_S)], then `layers` times x <- x + MSA(LN(x)),
    x <- x + MLP(LN(x));  logit = u . LN(x_c) + b. pe is the sinusoidal encoding of a slice's index in the
    whole bag, also if slices are sampled. Weights: the class token's attention in the last layer,
    softmax_s(q_c . k_s / sqrt(width / heads)) over the slices only, without itself, averaged over the heads.

    Vaswani et al.: Attention Is All You Need, NeurIPS 2017 (pe: section 3.5); class token and layers: Dosovitskiy et
    al.: An Image is Worth 16x16 Words, ICLR 2021, equations 1 to 4.

    Args:
        width: size of a token, of which each head has an equal part.
        dropout: share dropped of the output of each attention and MLP during training.
    """

    order_matters = True

    def __init__(
        self,
        dim: int,
        width: Annotated[int, Ge(1)] = 64,
        layers: Annotated[int, Ge(1)] = 2,
        heads: Annotated[int, Ge(1)] = 4,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.1,
    ) -> None:
        super().__init__()
        if width % heads:
            raise UsageError(f"aggregator.heads={heads} does not divide aggregator.width={width}; change one of them")
        self.embed = nn.Linear(dim, width)
        self.token = nn.Parameter(torch.randn(width) * 0.02)
        self.layers = nn.ModuleList(TransformerLayer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 1)

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        count, slices = mask.shape
        if positions is None:
            positions = torch.arange(slices, device=mask.device).expand(count, slices)
        x = self.embed(embeddings.masked_fill(~mask.unsqueeze(-1), 0.0)) + sinusoids(positions, len(self.token))
        x = torch.cat([self.token.expand(count, 1, -1), x], dim=1)
        attended = torch.cat([mask.new_ones(count, 1), mask], dim=1)
        for layer in self.layers:
            x, token_scores = layer(x, attended)
        weights = masked_softmax(token_scores[:, :, 1:].transpose(1, 2), mask).mean(dim=-1)
        return self.classifier(self.norm(x[:, 0])).squeeze(-1), weights


class TransformerLayer(nn.Module):
    """Multi-head self-attention and an MLP of twice the width, each with pre-norm and a residual connection."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, attended: Tensor) -> tuple[Tensor, Tensor]:
        """Transform float [B, N, D], finite; bool [B, N] is False for masked tokens.

        Also returns the first token's scores of all tokens before the softmax, float [B, heads, N].
        """
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # not scaled_dot_product_attention, which does not return the scores
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        attention = torch.softmax(scores.masked_fill(~attended[:, None, None], -torch.inf), dim=-1)
        x = x + self.dropout(self.project((attention @ v).transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.norm2(x))), scores[:, :, 0]


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Positional encoding: int64 [B, S] -> float [B, S, dim], alternating sin and cos of p / 10000^(2i / dim)."""
    rates = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-math.log(10000) / dim))
    angles = positions.unsqueeze(-1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :dim]
