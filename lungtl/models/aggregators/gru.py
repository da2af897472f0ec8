"""A recurrent network along z, then attention."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from lungtl.models.aggregators.attention import Attention
from lungtl.models.aggregators.base import Aggregator


class Gru(Aggregator):
    """A bidirectional GRU over the slices; attention then pools its states.

    x_s = [forward GRU of h_1..h_s, backward GRU of h_S..h_s]; then `attention` on x, whose weights are the slices'.

    In a training step with sampled slices, the sequence consists of those. Cho et al.: Learning Phrase Representations
    using RNN Encoder-Decoder for Statistical Machine Translation, EMNLP 2014, section 2.3. Attention: Ilse et al. 2018.
    """

    order_matters = True

    def __init__(
        self,
        dim: int,
        state: Annotated[int, Ge(1)] = 64,
        layers: Annotated[int, Ge(1)] = 1,
        hidden: Annotated[int, Ge(1)] = 128,
    ) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, state, layers, batch_first=True, bidirectional=True)
        self.pool = Attention(2 * state, hidden)

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        # packed, so that the backward direction starts at each bag's last slice
        packed = pack_padded_sequence(embeddings, mask.sum(dim=1).cpu(), batch_first=True, enforce_sorted=False)
        x, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=mask.shape[1])
        logit, weights = self.pool(x, slice_logits, mask)
        return logit, weights
