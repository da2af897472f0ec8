"""The whole network: slices in HU -> embeddings -> slice logits and one bag logit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lungtl.data.bags import dihedral, read_frames
from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.base import Aggregator
from lungtl.models.backbones.base import Backbone
from lungtl.models.backbones.split import Split, split_backbone
from lungtl.models.slice_projection import SliceProjection

# on a CPU the activations of few slices stay in its caches (`make bench ARGS=passes`); a GPU needs many to be busy
CPU_CHUNK, GPU_CHUNK = 16, 128
N_CLASSES = 3  # non-nodule, benign, malignant


class BagOutput(NamedTuple):
    """Output for a batch of bags."""

    bag_logits: Tensor  # float [B]; sigmoid is the probability of malignancy
    weights: Tensor  # float [B, S], the weight of each slice; 0 on padding, sum 1
    slice_logits: Tensor  # float [B, S, 3]


class BagClassifier(nn.Module):
    """HU -> normalised images (preprocessor) -> embeddings (backbone) -> projection -> slice head and aggregator.

    `chunk` is the number of slices per forward pass of a backbone that does not train; None: a default for the device.
    """

    def __init__(
        self,
        preprocessor: SlicePreprocessor,
        backbone: Backbone,
        projection: SliceProjection,
        aggregator: Aggregator,
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        self.preprocessor = preprocessor
        self.backbone = backbone
        self.projection = projection
        self.slice_head = nn.Linear(projection.width, N_CLASSES)
        self.aggregator = aggregator
        self._chunk = chunk
        self.split = Split(backbone)  # where the backbone is cut for the feature cache: at its end, see `cut`

    @property
    def chunk(self) -> int:
        """Slices per forward pass of a backbone that does not train."""
        if self._chunk is not None:
            return self._chunk
        return CPU_CHUNK if next(self.parameters()).device.type == "cpu" else GPU_CHUNK

    def embed(self, frames: Tensor) -> Tensor:
        """Embed slices: int16 [N, C, H, W] -> float [N, D]; in chunks when no gradient is needed."""
        return self._embed_bags([frames])

    def cut(self, frozen_blocks: int) -> None:
        """Cut the backbone after its first blocks (at least 1), which never train; `classify` takes their output.

        Raises CannotSplit if this backbone cannot be cut there.
        """
        self.split = split_backbone(self.backbone, frozen_blocks, self.preprocessor.size)

    def folded(self) -> AbstractContextManager[None]:
        """Fold the backbone's batch norms for faster inference: see `Split.folded`."""
        return self.split.folded(self.preprocessor.size)

    def forward(self, frames: list[Tensor], positions: list[Tensor] | None = None) -> BagOutput:
        """Classify bags from their voxels: int16 [S_i, C, H, W] for each.

        `positions`, int64 [S_i], are the slices' indices in each bag, if only some of its slices are given.
        """
        return self._aggregate(self._embed_bags(frames), [len(bag) for bag in frames], positions)

    def classify(self, features: list[Tensor], positions: list[Tensor] | None = None) -> BagOutput:
        """Classify bags from their features: float [S_i, split.width] for each bag; see `forward`."""
        lengths = [len(bag) for bag in features]
        rows = torch.cat(features).float()
        if self.split.whole or self._backbone_trains():
            return self._aggregate(self.split.suffix(rows), lengths, positions)
        with torch.no_grad():
            embeddings = torch.cat([self.split.suffix(chunk) for chunk in rows.split(self.chunk)])
        return self._aggregate(embeddings, lengths, positions)

    def _aggregate(self, embeddings: Tensor, lengths: list[int], positions: list[Tensor] | None) -> BagOutput:
        """Apply head and aggregator to float [N, D], the slices of all bags in a row."""
        h = nn.utils.rnn.pad_sequence(self.projection(embeddings).split(lengths), batch_first=True)
        # built on the device: copying the lengths would make a GPU's host wait for the backbone
        mask = nn.utils.rnn.pad_sequence([h.new_ones(n, dtype=torch.bool) for n in lengths], batch_first=True)
        slice_logits = self.slice_head(h)
        padded = None if positions is None else nn.utils.rnn.pad_sequence(positions, batch_first=True)
        bag_logits, weights = self.aggregator(h, slice_logits, mask, padded)
        return BagOutput(bag_logits, weights, slice_logits)

    def _embed_bags(self, frames: list[Tensor]) -> Tensor:
        """Embed the slices of all bags: int16 [S_i, C, H, W] for each bag -> float [N, D]."""
        if self._backbone_trains():  # all bags at once: batch-norm statistics must not come from a single bag
            embeddings: Tensor = self.backbone(torch.cat([self.preprocessor(bag) for bag in frames]))
            return embeddings
        with torch.no_grad():
            images = (self.preprocessor(part) for bag in frames for part in bag.split(self.chunk))
            return torch.cat([self.backbone(chunk) for chunk in full_chunks(images, self.chunk)])

    def _backbone_trains(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.backbone.parameters())


def image_chunks(
    classifier: BagClassifier, volumes: Iterable[NDArray[np.int16]], device: torch.device, view: int = 0
) -> Iterator[Tensor]:
    """Preprocessed slices of bags in a dihedral view, in order, in full chunks on the device.

    `volumes` are int16 [S_i, H, W] each, and read chunk by chunk if they are memory-mapped.
    """
    size, neighbours = classifier.chunk, classifier.preprocessor.neighbours

    def images() -> Iterator[Tensor]:
        for voxels in volumes:
            for start in range(0, len(voxels), size):
                frames = read_frames(voxels, np.arange(start, min(start + size, len(voxels))), neighbours)
                if device.type == "cuda":  # copy asynchronously, from pinned memory
                    frames = frames.pin_memory()
                yield classifier.preprocessor(dihedral(frames.to(device, non_blocking=device.type == "cuda"), view))

    return full_chunks(images(), size)


def full_chunks(parts: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Regroup rows, [n, ...] each, in order, into chunks of `size`; only the last may be smaller."""
    pending: list[Tensor] = []
    for part in parts:
        if len(part):
            pending.append(part)
        if sum(map(len, pending)) >= size:
            rows = pending[0] if len(pending) == 1 else torch.cat(pending)
            full = len(rows) // size * size
            pending = [rows[full:].clone()] if full < len(rows) else []  # a view would keep all rows in memory
            yield from rows[:full].split(size)
    if pending:
        yield torch.cat(pending)
