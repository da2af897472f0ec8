"""The whole network: slices of HU -> embeddings -> slice logits and one bag logit."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.base import Aggregator
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.slice_projection import SliceProjection

# On a CPU few slices at once are faster, since their activations stay in the caches (see benchmarks/results.csv); a
# GPU wants to be filled.
CPU_CHUNK, GPU_CHUNK = 8, 128
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

    Args:
        preprocessor: HU -> normalised images.
        backbone: images -> embeddings.
        projection: embedding -> what slice head and aggregator see.
        aggregator: projected embeddings and slice logits -> bag logit.
        chunk: slices that pass the backbone at once when nothing trains in it; None: what the device likes best.
    """

    def __init__(
        self,
        preprocessor: SlicePreprocessor,
        backbone: TimmBackbone,
        projection: SliceProjection,
        aggregator: Aggregator,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.preprocessor = preprocessor
        self.backbone = backbone
        self.projection = projection
        self.slice_head = nn.Linear(projection.linear.out_features, N_CLASSES)
        self.aggregator = aggregator
        self._chunk = chunk

    @property
    def chunk(self) -> int:
        """How many slices pass the backbone at once."""
        if self._chunk is not None:
            return self._chunk
        return CPU_CHUNK if next(self.parameters()).device.type == "cpu" else GPU_CHUNK

    def embed(self, frames: Tensor) -> Tensor:
        """Embed slices: int16 [N, C, H, W] -> float [N, D]; in chunks when no gradient is needed."""
        if self._backbone_learns():
            embeddings: Tensor = self.backbone(self.preprocessor(frames))
            return embeddings
        with torch.no_grad():
            return torch.cat([self.backbone(self.preprocessor(part)) for part in frames.split(self.chunk)])

    def classify(self, embeddings: Tensor, mask: Tensor) -> BagOutput:
        """Classify bags from embeddings: float [B, S, D], bool [B, S]."""
        projected = self.projection(embeddings[mask])
        h = projected.new_zeros(*mask.shape, projected.shape[-1])
        h[mask] = projected
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
