"""The whole network: slices of HU -> embeddings -> slice logits and one bag logit."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.base import Aggregator
from lungtl.models.backbones.split import Split, split_backbone
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.chunks import full_chunks
from lungtl.models.slice_projection import SliceProjection

# on a CPU few slices keep their activations in the caches (`make bench ARGS=passes`); a GPU wants to be filled
CPU_CHUNK, GPU_CHUNK = 16, 128
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

    Attributes:
        split: where the backbone is cut for the feature cache; behind its end unless `cut` says otherwise.
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
        self.split = Split(backbone)

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
        return self._embedded([frames])

    def cut(self, frozen_blocks: int) -> None:
        """Let `classify` take what the backbone's first blocks compute, which never train.

        Args:
            frozen_blocks: how many; at least one, and all of them make it the embeddings.

        Raises:
            CannotSplit: this backbone cannot be cut there.
        """
        self.split = split_backbone(self.backbone, frozen_blocks, self.preprocessor.size)

    def folded(self) -> AbstractContextManager[None]:
        """Let the backbone, in evaluation mode, compute the same faster for a while: see `Split.folded`."""
        return self.split.folded(self.preprocessor.size)

    def forward(self, frames: list[Tensor], positions: list[Tensor] | None = None) -> BagOutput:
        """Classify bags from their voxels.

        Args:
            frames: int16 [S_i, C, H, W] a bag.
            positions: int64 [S_i] a bag, the slices' indices in it, where they are only some of it.
        """
        lengths = [len(bag) for bag in frames]
        if self._backbone_learns():  # all bags at once: batch norm must not take its statistics from a single bag
            embeddings = self.backbone(torch.cat([self.preprocessor(bag) for bag in frames]))
        else:
            embeddings = self._embedded(frames)
        return self._aggregated(embeddings, lengths, positions)

    def classify(self, features: list[Tensor], positions: list[Tensor] | None = None) -> BagOutput:
        """Classify bags from what `split` computed of their slices, float [S_i, split.width] a bag; see `forward`."""
        lengths = [len(bag) for bag in features]
        rows = torch.cat(features).float()
        if self.split.whole or self._backbone_learns():
            return self._aggregated(self.split.suffix(rows), lengths, positions)
        with torch.no_grad():
            embeddings = torch.cat([self.split.suffix(part) for part in rows.split(self.chunk)])
        return self._aggregated(embeddings, lengths, positions)

    def _aggregated(self, embeddings: Tensor, lengths: list[int], positions: list[Tensor] | None) -> BagOutput:
        """Head and aggregator on float [N, D], the slices of all bags, so many each."""
        h = nn.utils.rnn.pad_sequence(self.projection(embeddings).split(lengths), batch_first=True)
        # made on the device: a GPU's host would wait for a copy of the lengths until the backbone is done
        mask = nn.utils.rnn.pad_sequence([h.new_ones(n, dtype=torch.bool) for n in lengths], batch_first=True)
        slice_logits = self.slice_head(h)
        places = None if positions is None else nn.utils.rnn.pad_sequence(positions, batch_first=True)
        bag_logits, weights = self.aggregator(h, slice_logits, mask, places)
        return BagOutput(bag_logits, weights, slice_logits)

    def _embedded(self, frames: list[Tensor]) -> Tensor:
        """Embed the slices of all bags, in chunks and without gradients: int16 [S_i, C, H, W] a bag -> [N, D]."""
        with torch.no_grad():
            pieces = (self.preprocessor(part) for bag in frames for part in bag.split(self.chunk))
            return torch.cat([self.backbone(images) for images in full_chunks(pieces, self.chunk)])

    def _backbone_learns(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.backbone.parameters())
