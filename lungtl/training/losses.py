"""Losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Le, Lt
from torch import Tensor, nn
from torch.nn import functional as F

from lungtl.models.bag_classifier import N_CLASSES, BagOutput
from lungtl.models.collectives import all_reduce_sum, world_size
from lungtl.settings.errors import UsageError
from lungtl.sources.base import NON_NODULE, UNKNOWN
from lungtl.training.readers import ReaderHeads


class Part(NamedTuple):
    """A weighted mean before division, so that the parts of several batches or DDP ranks can be added first."""

    numerator: Tensor  # scalar, sum of weight x loss
    denominator: Tensor  # scalar, sum of weights; if it is 0, so is the numerator


class BagAndSliceLoss(nn.Module):
    """Cross-entropy of the bags and of the slices with known labels, and attention supervision.

    loss = bag_weight * mean_b w[y_b] l(bag_logit_b, y_b) + slice_weight * mean_s v[y_s] l(slice_logits_s, y_s)
           + attention_weight * mean_b a_b + readers_weight * r, the first two means weighted by w and v.

    * l = -sum_c q_c (1 - p_c)^gamma log p_c: the focal loss (Lin et al., ICCV 2017, equation 4, with w and v as
      alpha); with gamma = 0 the cross-entropy. q is the one-hot label, of which the share `smoothing` is spread over
      all classes (Szegedy et al., CVPR 2016, section 7). Bags have two classes, slices three.
    * w and v: 1, or balanced: n / (number of classes * n_class), counted on the training split.
    * target=votes: q of a bag is the share of its readers who call it malignant, and w = 1; see `lidc_labels`.
    * a_b = -(1/|N|) sum_{s in N} log(|N| w_s / sum_{k known} w_k): the Kullback-Leibler divergence of the uniform
      distribution on the slices with a nodule, N, from the weights of the slices with known labels. It is 0 if
      non-nodule slices have weight 0 and all of N the same weight. Only bags with both kinds of slices count.

    * r: the cross-entropy of the readers' other ratings, in training alone; see `lungtl.training.readers`.

    Args:
        slice_weight: of the slice loss; 0 omits it.
        class_weights: balanced or none.
        bag_gamma, slice_gamma: focal exponents; above 0, correctly classified bags or slices count less.
        bag_smoothing, slice_smoothing: share of a label that is spread over all classes.
        attention_weight: of the attention supervision, which requires an aggregator with learned weights; 0 omits it.
        bag_weight: of the bag loss; 0 trains on slices only, for aggregators without parameters.
        target: what the bag loss of a training bag compares with: its label, or its readers' votes. Bags without a
            label train too if their votes are known. Validation and test always use labels.
        readers_weight: of the other ratings as auxiliary targets; 0 omits them.
        calcification_share: of that weight; the other seven ratings share the rest.
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
        target: Literal["label", "votes"] = "label",
        readers_weight: Annotated[float, Ge(0)] = 0.0,
        calcification_share: Annotated[float, Ge(0), Le(1)] = 0.5,
    ) -> None:
        super().__init__()
        self.target = target
        self.class_weights = class_weights
        self.bag_gamma, self.slice_gamma = bag_gamma, slice_gamma
        self.bag_smoothing, self.slice_smoothing = bag_smoothing, slice_smoothing
        self.part_weights = {"bag_loss": bag_weight, "slice_loss": slice_weight, "attention_loss": attention_weight,
                             "readers_loss": readers_weight}  # fmt: skip
        self.calcification_share = calcification_share
        self.reader_heads: ReaderHeads | None = None
        self.register_buffer("bag_weights", torch.ones(2))
        self.register_buffer("slice_weights", torch.ones(N_CLASSES))

    def count(self, bag_labels: Tensor, slice_labels: Tensor) -> None:
        """Set the class weights from the training labels: int64 [n_bags], int64 [n_slices]; -1 is ignored."""
        if self.class_weights == "balanced":
            if self.target == "label":
                self.bag_weights.copy_(_balanced(bag_labels, 2))
            self.slice_weights.copy_(_balanced(slice_labels, N_CLASSES))

    def add_reader_heads(self, dim: int) -> None:
        """Create the heads of the readers' ratings for bag embeddings of a size; without them `ratings` are ignored."""
        self.reader_heads = ReaderHeads(dim, self.calcification_share)

    def forward(self, output: BagOutput, bag_labels: Tensor, slice_labels: Tensor) -> dict[str, Tensor]:
        """Loss of one batch and its parts, see `total`."""
        return self.total(self.parts(output, bag_labels, slice_labels))

    def parts(
        self, output: BagOutput, bag_labels: Tensor, slice_labels: Tensor, ratings: Tensor | None = None
    ) -> dict[str, Part]:
        """The parts of the loss: `bag_loss`; `slice_loss`, `attention_loss` and `readers_loss` unless they are omitted.

        Args:
            output: of the classifier.
            bag_labels: float [B], 0, 1 or between (votes); -1 unknown.
            slice_labels: int64 [B, S]; -1 unknown or padding.
            ratings: float [B, 8], 0..1, NaN where unknown; None in validation, which is of the labels alone.

        Raises:
            UsageError: attention is supervised, but the aggregator has no learned weights.
        """
        # the bag logit is that of class 1 relative to class 0
        bag_logits = torch.stack([torch.zeros_like(output.bag_logits), output.bag_logits], dim=1)
        known = bag_labels != UNKNOWN
        q = torch.stack([1 - bag_labels, bag_labels], dim=1).float().masked_fill(~known[:, None], 0)
        parts = {
            "bag_loss": _class_weighted(bag_logits, q, known, self.bag_weights, self.bag_gamma, self.bag_smoothing)
        }
        if self.part_weights["slice_loss"] > 0:
            labels = slice_labels.flatten()
            known = labels != UNKNOWN
            parts["slice_loss"] = _class_weighted(
                output.slice_logits.flatten(0, 1), F.one_hot(labels.where(known, 0), N_CLASSES), known,
                self.slice_weights, self.slice_gamma, self.slice_smoothing,
            )  # fmt: skip
        if self.part_weights["attention_loss"] > 0:
            if output.bag_logits.requires_grad and not output.weights.requires_grad:
                problem = f"loss.attention_weight={self.part_weights['attention_loss']:g}: no learned slice weights"
                raise UsageError(f"{problem}; use aggregator=attention or loss.attention_weight=0")
            parts["attention_loss"] = _attention(output.weights, slice_labels)
        if self.reader_heads is not None and ratings is not None:
            parts["readers_loss"] = Part(*self.reader_heads(output.embedding, ratings))
        return parts

    def total(self, parts: Mapping[str, Part]) -> dict[str, Tensor]:
        """Divide the parts and sum them: scalars `loss`, and each part for which the batch has labels."""
        means = {name: part.numerator / part.denominator for name, part in parts.items() if part.denominator > 0}
        return {"loss": self.combined(parts), **means}

    def combined(self, parts: Mapping[str, Part]) -> Tensor:
        """The loss alone, scalar, without synchronising with a GPU."""
        # a part without labels adds 0, but keeps its parameters in the graph
        return torch.stack([
            self.part_weights[name] * part.numerator / torch.where(part.denominator > 0, part.denominator, 1.0)
            for name, part in parts.items()
        ]).sum()  # fmt: skip


def scale_for_ddp(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Scale the local parts so that DDP's averaging over ranks gives the loss of the whole batch.

    Numerators are multiplied by the number of ranks, denominators summed over the ranks.
    """
    denominators = all_reduce_sum(torch.stack([part.denominator for part in parts.values()]))
    return {
        name: Part(world_size() * part.numerator, denominator)
        for (name, part), denominator in zip(parts.items(), denominators, strict=True)
    }


def sum_parts(batches: Sequence[Mapping[str, Part]]) -> dict[str, Part]:
    """Sum the parts of all batches of all ranks."""
    sums = {name: torch.stack([torch.stack(batch[name]) for batch in batches]).sum(dim=0) for name in batches[0]}
    return {name: Part(*all_reduce_sum(both)) for name, both in sums.items()}


def focal_cross_entropy(logits: Tensor, q: Tensor, gamma: float = 0.0, smoothing: float = 0.0) -> Tensor:
    """-sum_c q_c (1 - p_c)^gamma log p_c, see `BagAndSliceLoss`: float [N, C], q float [N, C] of sum 1 -> float [N]."""
    classes = logits.shape[1]
    target = q * (1 - smoothing) + smoothing / classes
    # log(1 - p_c) from the other classes' logits, since 1 - p_c may round to 0
    other_logits = logits[:, None, :].masked_fill(
        torch.eye(classes, dtype=torch.bool, device=logits.device), -torch.inf
    )
    log_rest = other_logits.logsumexp(dim=2) - logits.logsumexp(dim=1, keepdim=True)
    return -(target * torch.exp(gamma * log_rest) * logits.log_softmax(dim=1)).sum(dim=1)


def _class_weighted(logits: Tensor, q: Tensor, known: Tensor, weights: Tensor, gamma: float, smoothing: float) -> Part:
    """Over rows with known labels; the rest get weight 0, since removing them would synchronise with a GPU."""
    logits = logits.float().masked_fill(~known[:, None], 0)  # float32 under mixed precision
    row_weights = (q * weights).sum(dim=1) * known
    return Part((row_weights * focal_cross_entropy(logits, q, gamma, smoothing)).sum(), row_weights.sum())


def _attention(weights: Tensor, slice_labels: Tensor) -> Part:
    """Over bags with both nodule and non-nodule slices; weights float [B, S], slice_labels int64 [B, S]."""
    nodule, empty = slice_labels > NON_NODULE, slice_labels == NON_NODULE
    both = nodule.any(dim=1) & empty.any(dim=1)
    known = nodule | empty | ~both[:, None]  # any finite value will do for bags that do not count
    weights = weights.float()
    log_weights = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()  # a softmax may underflow
    log_known = log_weights.masked_fill(~known, -torch.inf).logsumexp(dim=1)
    count = nodule.sum(dim=1).clamp(min=1)
    divergence = log_known - (log_weights * nodule).sum(dim=1) / count - count.log()
    return Part(divergence.where(both, 0).sum(), both.sum().to(weights.dtype))


def _balanced(labels: Tensor, n_classes: int) -> Tensor:
    counts = torch.bincount(labels[labels != UNKNOWN], minlength=n_classes).float()
    present = (counts > 0).sum().clamp(min=1)
    # 1 for classes without training examples keeps the validation loss finite
    return torch.where(counts > 0, counts.sum() / (present * counts.clamp(min=1)), torch.ones(()))
