"""The readers' other ratings of a nodule as auxiliary targets: eight heads on the bag's embedding (`loss=readers`).

They are trained and then discarded; neither predictions nor bundles use them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lungtl.sources.lidc_labels import RATING, RATINGS_BESIDE_MALIGNANCY, highest_rating


def scaled_ratings(bags: pd.DataFrame) -> dict[str, Tensor] | None:
    """The mean ratings of each bag on a scale of 0..1, float32 [8], NaN where unknown; None if none is known.

    Args:
        bags: of a store, with bag_id and any of the columns rating_subtlety, rating_calcification, ...
    """
    columns = [RATING + name for name in RATINGS_BESIDE_MALIGNANCY]
    means = bags.reindex(columns=columns).to_numpy(np.float32)
    if not np.isfinite(means).any():
        return None
    highest = np.array([highest_rating(name) for name in RATINGS_BESIDE_MALIGNANCY], np.float32)
    return dict(zip(bags["bag_id"], torch.from_numpy((means - 1) / (highest - 1)), strict=True))


class ReaderHeads(nn.Module):
    """Predicts each rating, on a scale of 0..1, as a sigmoid of a linear function of the bag's embedding.

    Args:
        dim: size of the embedding.
        calcification_share: of the weight; the other seven ratings share the rest equally.
    """

    weights: Tensor

    def __init__(self, dim: int, calcification_share: float) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, len(RATINGS_BESIDE_MALIGNANCY))
        rest = (1 - calcification_share) / (len(RATINGS_BESIDE_MALIGNANCY) - 1)
        weights = [calcification_share if name == "calcification" else rest for name in RATINGS_BESIDE_MALIGNANCY]
        self.register_buffer("weights", torch.tensor(weights))

    def forward(self, embedding: Tensor, ratings: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum of the cross-entropies with the known ratings, and the sum of their weights.

        Args:
            embedding: float [B, dim].
            ratings: float [B, 8], 0..1; NaN where unknown.
        """
        known = ratings.isfinite()
        targets = ratings.where(known, 0)
        losses = F.binary_cross_entropy_with_logits(self.linear(embedding).float(), targets, reduction="none")
        weights = self.weights * known
        return (losses * weights).sum(), weights.sum()
