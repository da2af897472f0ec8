"""What stands between a backbone's embedding and everything that is learned on it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class SliceProjection(nn.Module):
    """Standardise each component of the embedding, then project: h = dropout(ReLU(W standardise(e) + b)).

    The fully connected layer before pooling is that of Ilse et al. (2018) and of CLAM (Lu et al. 2021). Components of
    ImageNet embeddings differ by orders of magnitude in scale; standardised (batch norm without weights), one learning
    rate suits all.

    Args:
        dim: size of the embedding.
        width: of the projection.
        dropout: share of the projection dropped while training.
    """

    def __init__(self, dim: int, width: int, dropout: float) -> None:
        super().__init__()
        self.standardise = nn.BatchNorm1d(dim, affine=False)
        self.linear = nn.Linear(dim, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Project float [N, dim], real slices only -> [N, width]."""
        if self.training and len(embeddings) == 1:  # one slice has no variance
            norm = self.standardise
            h = F.batch_norm(embeddings, norm.running_mean, norm.running_var, eps=norm.eps)
        else:
            h = self.standardise(embeddings)
        projected: Tensor = self.dropout(F.relu(self.linear(h)))
        return projected
