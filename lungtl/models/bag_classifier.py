"""The whole network: slices in HU -> embeddings -> slice logits and one bag logit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lungtl.data.bags import dihedral, read_frames, turned
from lungtl.data.field_of_view import UNKNOWN_SPACING, Spacing
from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.base import Aggregator
from lungtl.models.backbones.base import Backbone
from lungtl.models.backbones.split import Split, split_backbone
from lungtl.models.recompute import activation_budget, in_chunks, mixes_slices
from lungtl.models.slice_projection import SliceProjection

# on a CPU the activations of few slices stay in its caches (`make bench ARGS=passes`); a GPU needs many to be busy
CPU_CHUNK, GPU_CHUNK = 16, 128
CPU_TRAINING_CHUNK, GPU_TRAINING_CHUNK = 16, 64  # a chunk's activations stay in memory until its backward pass
ImageChange = Callable[[Tensor], Tensor]
"""Augments the normalised images of a bag: float [n, channels, size, size]."""
SpacedVoxels = tuple[NDArray[np.int16], Spacing]
N_CLASSES = 3  # non-nodule, benign, malignant


class BagOutput(NamedTuple):
    """Output for a batch of bags."""

    bag_logits: Tensor  # float [B]; sigmoid is the probability of malignancy
    weights: Tensor  # float [B, S], the weight of each slice; 0 on padding, sum 1
    slice_logits: Tensor  # float [B, S, 3]
    embedding: Tensor | None = None  # float [B, width], the slices' projections averaged by weight


class BagClassifier(nn.Module):
    """HU -> normalised images (preprocessor) -> embeddings (backbone) -> projection -> slice head and aggregator.

    With several scales, a slice's embedding is that of all its images, one after the other: D = scales * backbone.dim.
    `chunk` is the number of slices per forward pass of a backbone that does not train; None: a default for the device.
    `views` is the number of dihedral views that a prediction averages (see `lungtl.models.inference`).
    """

    def __init__(
        self,
        preprocessor: SlicePreprocessor,
        backbone: Backbone,
        projection: SliceProjection,
        aggregator: Aggregator,
        chunk: int | None = None,
        views: int = 1,
    ) -> None:
        super().__init__()
        self.views = views
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
        images = CPU_CHUNK if next(self.parameters()).device.type == "cpu" else GPU_CHUNK
        return max(1, images // self.preprocessor.scales)

    @property
    def row_width(self) -> int:
        """Size of a slice's row of features, see `prefix`."""
        return self.split.width * self.preprocessor.scales

    def embed(self, frames: Tensor, spacing_mm: Spacing = UNKNOWN_SPACING) -> Tensor:
        """Embed slices: int16 [N, C, H, W] -> float [N, D]; in chunks when no gradient is needed."""
        return self._embed_bags([frames], [spacing_mm])

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed preprocessed slices: float [N * scales, channels, size, size] -> [N, D]."""
        return self._join_scales(self.backbone(images))

    def prefix(self, images: Tensor) -> Tensor:
        """What the feature cache holds of preprocessed slices: [N * scales, channels, size, size] -> [N, row_width]."""
        return self._join_scales(self.split.prefix(images))

    def suffix(self, rows: Tensor) -> Tensor:
        """The rest of the backbone: float [N, row_width] -> embeddings [N, D]."""
        return self._join_scales(self.split.suffix(rows.reshape(-1, self.split.width)))

    def cut(self, frozen_blocks: int) -> None:
        """Cut the backbone after its first blocks (at least 1), which never train; `classify` takes their output.

        Raises CannotSplit if this backbone cannot be cut there.
        """
        self.split = split_backbone(self.backbone, frozen_blocks, self.preprocessor.size)

    def folded(self) -> AbstractContextManager[None]:
        """Fold the backbone's batch norms for faster inference: see `Split.folded`."""
        return self.split.folded(self.preprocessor.size)

    def forward(
        self,
        frames: list[Tensor],
        positions: list[Tensor] | None = None,
        spacings: Sequence[Spacing] | None = None,
        changes: Sequence[ImageChange] | None = None,
    ) -> BagOutput:
        """Classify bags from their voxels: int16 [S_i, C, H, W] for each.

        `positions`, int64 [S_i], are the slices' indices in each bag, if only some of its slices are given. `spacings`
        are the (row, column) spacings of each bag in mm, which fields of view in mm require. `changes` augment the
        images of each bag.
        """
        return self._aggregate(self._embed_bags(frames, spacings, changes), [len(bag) for bag in frames], positions)

    def classify(self, features: list[Tensor], positions: list[Tensor] | None = None) -> BagOutput:
        """Classify bags from their features: float [S_i, row_width] for each bag; see `forward`."""
        lengths = [len(bag) for bag in features]
        rows = torch.cat(features).float()
        if self.split.whole:
            return self._aggregate(rows, lengths, positions)
        if self._backbone_trains():
            images = rows.reshape(-1, self.split.width)
            embeddings = self._join_scales(self._with_gradient(self.split.suffix, images))
            return self._aggregate(embeddings, lengths, positions)
        with torch.no_grad():
            embeddings = torch.cat([self.suffix(chunk) for chunk in rows.split(self.chunk)])
        return self._aggregate(embeddings, lengths, positions)

    def _aggregate(self, embeddings: Tensor, lengths: list[int], positions: list[Tensor] | None) -> BagOutput:
        """Apply head and aggregator to float [N, D], the slices of all bags in a row."""
        h = nn.utils.rnn.pad_sequence(self.projection(embeddings).split(lengths), batch_first=True)
        # built on the device: copying the lengths would make a GPU's host wait for the backbone
        mask = nn.utils.rnn.pad_sequence([h.new_ones(n, dtype=torch.bool) for n in lengths], batch_first=True)
        slice_logits = self.slice_head(h)
        padded = None if positions is None else nn.utils.rnn.pad_sequence(positions, batch_first=True)
        bag_logits, weights = self.aggregator(h, slice_logits, mask, padded)
        return BagOutput(bag_logits, weights, slice_logits, torch.einsum("bs,bsd->bd", weights, h))

    def _embed_bags(
        self,
        frames: list[Tensor],
        spacings: Sequence[Spacing] | None,
        changes: Sequence[ImageChange] | None = None,
    ) -> Tensor:
        """Embed the slices of all bags: int16 [S_i, C, H, W] for each bag -> float [N, D]."""
        bags = list(zip(frames, spacings or [UNKNOWN_SPACING] * len(frames), strict=True))
        if self._backbone_trains():  # all bags at once: batch-norm statistics must not come from a single bag
            images = torch.cat(list(self._images(bags, changes)))
            return self._join_scales(self._with_gradient(self.backbone, images))
        with torch.no_grad():
            chunks = full_chunks(self._images(bags, changes), self.chunk * self.preprocessor.scales)
            return torch.cat([self.embed_images(chunk) for chunk in chunks])

    def _join_scales(self, rows: Tensor) -> Tensor:
        """The images of each slice in one row: [N * scales, K] -> [N, scales * K]."""
        return rows.reshape(-1, self.preprocessor.scales * rows.shape[1])

    def _images(
        self, bags: Sequence[tuple[Tensor, Spacing]], changes: Sequence[ImageChange] | None
    ) -> Iterator[Tensor]:
        """Preprocessed slices of all bags: float [n, channels, size, size] each."""
        if changes is None:
            yield from (self.preprocessor(part, spacing) for bag, spacing in bags for part in bag.split(self.chunk))
            return
        for (bag, spacing), change in zip(bags, changes, strict=True):
            yield change(self.preprocessor(bag, spacing))

    def _with_gradient(self, network: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """Apply the backbone or a part of it, in chunks of bounded memory unless a batch norm needs all rows."""
        if mixes_slices(self.backbone):
            return network(rows)
        chunk = self._chunk or (CPU_TRAINING_CHUNK if rows.device.type == "cpu" else GPU_TRAINING_CHUNK)
        weights = {tensor.data_ptr() for tensor in [*self.backbone.parameters(), *self.backbone.buffers()]}
        return in_chunks(network, rows, chunk, activation_budget(rows.device), weights)

    def _backbone_trains(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.backbone.parameters())


def image_chunks(
    classifier: BagClassifier, volumes: Iterable[SpacedVoxels], device: torch.device, view: int = 0
) -> Iterator[Tensor]:
    """Preprocessed slices of bags in a dihedral view, in order, in full chunks on the device.

    `volumes` are int16 [S_i, H, W] each, with their (row, column) spacing in mm, and read chunk by chunk if they are
    memory-mapped.
    """
    size, neighbours = classifier.chunk, classifier.preprocessor.neighbours

    def images() -> Iterator[Tensor]:
        for voxels, spacing_mm in volumes:
            for start in range(0, len(voxels), size):
                frames = read_frames(voxels, np.arange(start, min(start + size, len(voxels))), neighbours)
                if device.type == "cuda":  # copy asynchronously, from pinned memory
                    frames = frames.pin_memory()
                frames = dihedral(frames.to(device, non_blocking=device.type == "cuda"), view)
                yield classifier.preprocessor(frames, turned(spacing_mm, view))

    return full_chunks(images(), size * classifier.preprocessor.scales)


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
