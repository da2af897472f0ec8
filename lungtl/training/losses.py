"""What training minimises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from lungtl.models.bag_classifier import N_CLASSES, BagOutput
from lungtl.settings.errors import UsageError
from lungtl.sources.base import NON_NODULE, UNKNOWN


class Part(NamedTuple):
    """A weighted mean before its division, so that batches, or the processes of one batch, can be added first.

    Attributes:
        numerator: scalar, sum of weight x loss.
        denominator: scalar, sum of weights; 0 where nothing counts, and then the numerator is 0 too.
    """

    numerator: Tensor
    denominator: Tensor


class BagAndSliceLoss(nn.Module):
    """Cross-entropy of the bags, that of the slices whose labels are known, and supervision of the attention.

    loss = bag_weight * mean_b w[y_b] l(bag_logit_b, y_b) + slice_weight * mean_s v[y_s] l(slice_logits_s, y_s)
           + attention_weight * mean_b a_b, the first two means weighted by w and v.

    * l = -sum_c q_c (1 - p_c)^gamma log p_c: the focal loss (Lin et al., ICCV 2017, equation 4, where w and v stand
      for its alpha), the plain cross-entropy with gamma = 0. q is the label, less `smoothing`, which all classes share
      (Szegedy et al., CVPR 2016, section 7). A bag has two classes, a slice three.
    * w and v: 1, or balanced: n / (number of classes * n_class), counted on the training split.
    * a_b = -(1/|N|) sum_{s in N} log(|N| w_s / sum_{k known} w_k): the Kullback-Leibler divergence of the uniform
      distribution on the slices with a nodule, N, from the weights of those whose labels are known. It is 0 where
      non-nodule slices weigh nothing and all of N the same; slices of unknown label neither gain nor lose. Only bags
      with both kinds count.

    Args:
        slice_weight: of the slices' part; 0 leaves it out.
        class_weights: balanced, or none.
        bag_gamma: how much less a bag counts that is right already; 0: all count the same.
        slice_gamma: likewise of slices.
        bag_smoothing: share of a bag's label that is spread over both classes.
        slice_smoothing: likewise over the three of a slice.
        attention_weight: of the attention's supervision; 0 leaves it out. Wants an aggregator that learns its weights.
        bag_weight: of the bags' part; 0 trains on slices alone, for aggregators that learn nothing themselves.
    """

    bag_weights: Tensor
    slice_weights: Tensor

    def __init__(
        self,
        slice_weight: Annotated[float, Ge(0)] = 0.5,
        class_weights: Literal["balanced", "none"] = "balanced",
        bag_gamma: Annotated[float, Ge(0)] = 0.0,
        slice_gamma: Annotated[float, Ge(0)] = 0.0,
        bag_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0,
        slice_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0,
        attention_weight: Annotated[float, Ge(0)] = 0.0,
        bag_weight: Annotated[float, Ge(0)] = 1.0,
    ) -> None:
        super().__init__()
        self.class_weights = class_weights
        self.bag_gamma, self.slice_gamma = bag_gamma, slice_gamma
        self.bag_smoothing, self.slice_smoothing = bag_smoothing, slice_smoothing
        self.part_weights = {"bag_loss": bag_weight, "slice_loss": slice_weight, "attention_loss": attention_weight}
        self.register_buffer("bag_weights", torch.ones(2))
        self.register_buffer("slice_weights", torch.ones(N_CLASSES))

    def count(self, bag_labels: Tensor, slice_labels: Tensor) -> None:
        """Set the class weights from the training labels: int64 [n_bags], int64 [n_slices]; -1 is not counted."""
        if self.class_weights == "balanced":
            self.bag_weights.copy_(_balanced(bag_labels, 2))
            self.slice_weights.copy_(_balanced(slice_labels, N_CLASSES))

    def forward(self, output: BagOutput, bag_labels: Tensor, slice_labels: Tensor) -> dict[str, Tensor]:
        """The loss and its parts, of one batch: `total` of `parts`."""
        return self.total(self.parts(output, bag_labels, slice_labels))

    def parts(self, output: BagOutput, bag_labels: Tensor, slice_labels: Tensor) -> dict[str, Part]:
        """The parts that count in the loss, whether or not the batch says anything of them.

        Args:
            output: of the classifier.
            bag_labels: int64 [B], 0 or 1.
            slice_labels: int64 [B, S]; -1 unknown or padding.

        Returns:
            `bag_loss`, `slice_loss`, `attention_loss`, those of weight 0 left out.

        Raises:
            UsageError: the attention is to be supervised, and the aggregator does not learn its weights.
        """
        # a bag's logit is that of class 1 against class 0
        bag_logits = torch.stack([torch.zeros_like(output.bag_logits), output.bag_logits], dim=1)
        parts = {
            "bag_loss": _class_weighted(bag_logits, bag_labels, self.bag_weights, self.bag_gamma, self.bag_smoothing)
        }
        if self.part_weights["slice_loss"] > 0:
            parts["slice_loss"] = _class_weighted(
                output.slice_logits.flatten(0, 1), slice_labels.flatten(),
                self.slice_weights, self.slice_gamma, self.slice_smoothing,
            )  # fmt: skip
        if self.part_weights["attention_loss"] > 0:
            if output.bag_logits.requires_grad and not output.weights.requires_grad:
                raise UsageError(
                    f"loss.attention_weight={self.part_weights['attention_loss']:g}: this aggregator does not learn "
                    "how much a slice weighs; give aggregator=attention or loss.attention_weight=0"
                )
            parts["attention_loss"] = _attention(output.weights, slice_labels)
        return parts

    def total(self, parts: Mapping[str, Part]) -> dict[str, Tensor]:
        """Divide the parts and add them up.

        Args:
            parts: of `parts`.

        Returns:
            `loss` and each part that the batch says something of; scalars.
        """
        said = {name: part.numerator / part.denominator for name, part in parts.items() if part.denominator > 0}
        return {"loss": self.combined(parts), **said}

    def combined(self, parts: Mapping[str, Part]) -> Tensor:
        """The loss alone, scalar; a GPU's host need not wait for it.

        For the exact loss of a batch that P processes share, give the denominators summed over the processes and each
        process's numerators times P: the mean over the processes, which is what DDP takes of gradients, is the loss.

        Args:
            parts: of `parts`.
        """
        # without a denominator the numerator is 0: it adds nothing, but every parameter keeps its place in the graph
        return torch.stack([
            self.part_weights[name] * part.numerator / torch.where(part.denominator > 0, part.denominator, 1.0)
            for name, part in parts.items()
        ]).sum()  # fmt: skip


def focal_cross_entropy(logits: Tensor, labels: Tensor, gamma: float = 0.0, smoothing: float = 0.0) -> Tensor:
    """-sum_c q_c (1 - p_c)^gamma log p_c, see `BagAndSliceLoss`: float [N, C], int64 [N] in 0..C-1 -> float [N]."""
    classes = logits.shape[1]
    target = F.one_hot(labels, classes) * (1 - smoothing) + smoothing / classes
    # log(1 - p_c) from the other classes' logits: 1 - p_c itself rounds to 0, where a power below 1 has no gradient
    others = logits[:, None, :].masked_fill(torch.eye(classes, dtype=torch.bool, device=logits.device), -torch.inf)
    log_rest = others.logsumexp(dim=2) - logits.logsumexp(dim=1, keepdim=True)
    return -(target * torch.exp(gamma * log_rest) * logits.log_softmax(dim=1)).sum(dim=1)


def _class_weighted(logits: Tensor, labels: Tensor, weights: Tensor, gamma: float, smoothing: float) -> Part:
    """Of the rows whose label is known; the others weigh nothing, since to leave them out a GPU's host would wait."""
    known = labels != UNKNOWN
    logits = logits.float().masked_fill(~known[:, None], 0)  # float: of mixed precision
    labels = labels.where(known, 0)
    row_weights = weights[labels] * known
    return Part((row_weights * focal_cross_entropy(logits, labels, gamma, smoothing)).sum(), row_weights.sum())


def _attention(weights: Tensor, slice_labels: Tensor) -> Part:
    """Of the bags with both nodule and non-nodule slices; weights float [B, S], slice_labels int64 [B, S]."""
    nodule, empty = slice_labels > NON_NODULE, slice_labels == NON_NODULE
    both = nodule.any(dim=1) & empty.any(dim=1)
    known = nodule | empty | ~both[:, None]  # of bags that do not count anything will do that is finite
    weights = weights.float()
    # a softmax may underflow
    log_weights = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
    log_known = log_weights.masked_fill(~known, -torch.inf).logsumexp(dim=1)
    count = nodule.sum(dim=1).clamp(min=1)
    divergence = log_known - (log_weights * nodule).sum(dim=1) / count - count.log()
    return Part(divergence.where(both, 0).sum(), both.sum().to(weights.dtype))


def _balanced(labels: Tensor, n_classes: int) -> Tensor:
    counts = torch.bincount(labels[labels != UNKNOWN], minlength=n_classes).float()
    present = (counts > 0).sum().clamp(min=1)
    # a class that training never shows has no weight to learn from; 1 keeps validation's loss finite
    return torch.where(counts > 0, counts.sum() / (present * counts.clamp(min=1)), torch.ones(()))
