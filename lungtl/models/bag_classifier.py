"""The whole network: slices of HU -> embeddings -> slice logits and one bag logit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.base import Aggregator
from lungtl.models.backbones.timm_backbone import TimmBackbone

N_CLASSES = 3  # non-nodule, benign, malignant


class BagOutput(NamedTuple):
    """What the classifier says of a batch of bags.

    Attributes:
        bag_logits: float [B]; sigmoid is the probability of malignancy.
        weights: float [B, S]: how much each slice counted; 0 on padding, sum 1.
        slice_logits: float [B, S, 3].
    """

    bag_logits: Tensor
    weights: Tensor
    slice_logits: Tensor


class BagClassifier(nn.Module):
    """Preprocessing, backbone, slice head and aggregator.

    The slice head and the aggregator see layer-normalised embeddings: backbones differ by orders of magnitude in
    the scale of theirs, and one learning rate should suit all.

    Args:
        preprocessor: HU -> normalised images.
        backbone: images -> embeddings.
        aggregator: embeddings and slice logits -> bag logit.
        chunk: slices that pass the backbone at once when nothing trains in it.
    """

    def __init__(
        self, preprocessor: SlicePreprocessor, backbone: TimmBackbone, aggregator: Aggregator, chunk: int = 64
    ) -> None:
        super().__init__()
        self.preprocessor = preprocessor
        self.backbone = backbone
        self.norm = nn.LayerNorm(backbone.dim)
        self.slice_head = nn.Linear(backbone.dim, N_CLASSES)
        self.aggregator = aggregator
        self.chunk = chunk

    def embed(self, frames: Tensor) -> Tensor:
        """Embed slices: int16 [N, C, H, W] -> float [N, D]; in chunks when no gradient is needed."""
        if self._backbone_learns():
            embeddings: Tensor = self.backbone(self.preprocessor(frames))
            return embeddings
        with torch.no_grad():
            return torch.cat([self.backbone(self.preprocessor(part)) for part in frames.split(self.chunk)])

    def classify(self, embeddings: Tensor, mask: Tensor) -> BagOutput:
        """Classify bags from embeddings: float [B, S, D], bool [B, S]."""
        h = self.norm(embeddings)
        slice_logits = self.slice_head(h)
        bag_logits, weights = self.aggregator(h, slice_logits, mask)
        return BagOutput(bag_logits, weights, slice_logits)

    def forward(self, frames: list[Tensor]) -> BagOutput:
        """Classify bags from their voxels: one int16 [S_i, C, H, W] a bag."""
        if self._backbone_learns():  # all bags at once: batch norm must not take its statistics from a single bag
            images = torch.cat([self.preprocessor(bag) for bag in frames])
            embeddings = self.backbone(images).split([len(bag) for bag in frames])
        else:
            embeddings = [self.embed(bag) for bag in frames]
        padded = nn.utils.rnn.pad_sequence(embeddings, batch_first=True)
        lengths = torch.tensor([len(e) for e in embeddings], device=padded.device)
        mask = torch.arange(padded.shape[1], device=padded.device) < lengths.unsqueeze(1)
        return self.classify(padded, mask)

    def _backbone_learns(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.backbone.parameters())
