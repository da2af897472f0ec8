"""What training minimises."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from lungtl.models.bag_classifier import N_CLASSES, BagOutput
from lungtl.sources.base import UNKNOWN


class BagAndSliceLoss(nn.Module):
    """Cross-entropy of the bags, plus that of the slices whose labels are known.

    loss = mean_b w[y_b] BCE(bag_logit_b, y_b) + slice_weight * mean_s v[y_s] CE(slice_logits_s, y_s), each mean
    weighted by w or v. Balanced weights are n / (number of classes * n_class), counted on the training split.

    Args:
        slice_weight: of the slices' part; 0 leaves it out.
        class_weights: balanced, or none.
    """

    bag_weights: Tensor
    slice_weights: Tensor

    def __init__(
        self, slice_weight: Annotated[float, Ge(0)] = 0.5, class_weights: Literal["balanced", "none"] = "balanced"
    ) -> None:
        super().__init__()
        self.slice_weight = slice_weight
        self.class_weights = class_weights
        self.register_buffer("bag_weights", torch.ones(2))
        self.register_buffer("slice_weights", torch.ones(N_CLASSES))

    def count(self, bag_labels: Tensor, slice_labels: Tensor) -> None:
        """Set the class weights from the training labels: int64 [n_bags], int64 [n_slices]; -1 is not counted."""
        if self.class_weights == "balanced":
            self.bag_weights.copy_(_balanced(bag_labels, 2))
            self.slice_weights.copy_(_balanced(slice_labels, N_CLASSES))

    def forward(self, output: BagOutput, bag_labels: Tensor, slice_labels: Tensor) -> dict[str, Tensor]:
        """The loss and its parts.

        Args:
            output: of the classifier.
            bag_labels: int64 [B], 0 or 1.
            slice_labels: int64 [B, S]; -1 unknown or padding.

        Returns:
            `loss`, `bag_loss` and, where there are known slice labels, `slice_loss`; scalars.
        """
        weights = self.bag_weights[bag_labels]
        bce = F.binary_cross_entropy_with_logits(output.bag_logits, bag_labels.float(), reduction="none")
        bag_loss = (weights * bce).sum() / weights.sum()
        if self.slice_weight == 0 or not (slice_labels != UNKNOWN).any():
            return {"loss": bag_loss, "bag_loss": bag_loss}
        slice_loss = F.cross_entropy(
            output.slice_logits.flatten(0, 1), slice_labels.flatten(), self.slice_weights, ignore_index=UNKNOWN
        )
        return {"loss": bag_loss + self.slice_weight * slice_loss, "bag_loss": bag_loss, "slice_loss": slice_loss}


def _balanced(labels: Tensor, n_classes: int) -> Tensor:
    counts = torch.bincount(labels[labels != UNKNOWN], minlength=n_classes).float()
    present = (counts > 0).sum().clamp(min=1)
    # a class that training never shows has no weight to learn from; 1 keeps validation's loss finite
    return torch.where(counts > 0, counts.sum() / (present * counts.clamp(min=1)), torch.ones(()))
