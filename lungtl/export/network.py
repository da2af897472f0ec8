"""The network of an export: the voxels of one scan -> its probability and the weights of its slices.

It computes what `lungtl.models.inference.predict_and_embed` does, in operations that keep the numbers of slices, rows
and columns open. The field of view is resampled by two matrices, so that neither the formula nor the code depends on
whether an image is shrunk or enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lungtl.data.bags import dihedral
from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.base import Aggregator
from lungtl.models.aggregators.torchmil_model import TorchmilModel
from lungtl.models.bag_classifier import BagClassifier


class ExportedNetwork(nn.Module):
    """Classifies one scan; of several classifiers and views, probability and weights are means."""

    def __init__(self, classifiers: Sequence[BagClassifier]) -> None:
        super().__init__()
        self.classifiers = nn.ModuleList(classifiers).eval()

    @property
    def each(self) -> list[BagClassifier]:
        """The classifiers."""
        return list(self.classifiers)  # type: ignore[arg-type]

    @property
    def takes_spacing(self) -> bool:
        """Whether the result depends on the pixel spacing."""
        return any(classifier.preprocessor.crop_mm for classifier in self.each)

    @property
    def least_pixels(self) -> int:
        """Rows and columns that a slice must have at least."""
        return max(2, *(classifier.preprocessor.crop or 0 for classifier in self.each))

    def forward(self, voxels: Tensor, pixel_spacing_mm: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Classify a scan.

        Args:
            voxels: int16 [S, H, W], 1 mm slices in HU.
            pixel_spacing_mm: float [2], of rows and columns; only where `takes_spacing`.

        Returns:
            The probability of malignancy, float [], and the weights of the slices, float [S].
        """
        found = [
            _classify(classifier, voxels, pixel_spacing_mm, view)
            for classifier in self.each
            for view in range(classifier.views)
        ]
        # each classifier counts once, however many views it has
        shares = [1 / (each.views * len(self.classifiers)) for each in self.each for _ in range(each.views)]
        probability = torch.stack([share * one for share, (one, _) in zip(shares, found, strict=True)]).sum(dim=0)
        weights = torch.stack([share * one for share, (_, one) in zip(shares, found, strict=True)]).sum(dim=0)
        return probability, weights


def _classify(
    classifier: BagClassifier, voxels: Tensor, pixel_spacing_mm: Tensor | None, view: int
) -> tuple[Tensor, Tensor]:
    frames = voxels.unsqueeze(1)
    if classifier.preprocessor.neighbours:  # the first and last slice are repeated at the ends
        index = torch.arange(voxels.shape[0])  # not len, which is fixed when traced
        before, after = (index - 1).clamp(min=0), torch.minimum(index + 1, index[-1:])
        frames = torch.cat([frames[before], frames, frames[after]], dim=1)
    if pixel_spacing_mm is not None and view % 2:
        pixel_spacing_mm = pixel_spacing_mm.flip(0)
    images = _preprocess(classifier.preprocessor, dihedral(frames, view), pixel_spacing_mm)
    h = classifier.projection(classifier.embed_images(images)).unsqueeze(0)
    bag_logit, weights = aggregate(classifier.aggregator, h, classifier.slice_head(h))
    return bag_logit[0].sigmoid(), weights[0]


def aggregate(aggregator: Aggregator, h: Tensor, slice_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Of one bag without padding: float [1, S, D] and [1, S, 3] -> [1] and [1, S]."""
    if isinstance(aggregator, TorchmilModel):  # an export cannot select slices by a mask
        return aggregator.aggregate(h)
    logit, weights = aggregator(h, slice_logits, torch.ones_like(h[..., 0], dtype=torch.bool))
    return logit, weights


def _preprocess(preprocessor: SlicePreprocessor, frames: Tensor, pixel_spacing_mm: Tensor | None) -> Tensor:
    """What `SlicePreprocessor.forward` computes: int16 [S, C, H, W] -> float [S * scales, channels, size, size]."""
    windowed = ((frames - preprocessor.low) / preprocessor.width).clamp(0, 1)
    scales = []
    fields: list[float | None] = [*preprocessor.crop_mm] or [None]
    for mm in fields:
        matrices = []
        for axis, pixels in enumerate(windowed.shape[-2:]):
            if mm is not None:
                assert pixel_spacing_mm is not None
                matrices.append(_of_field(pixels, mm / pixel_spacing_mm[axis].double(), preprocessor.size))
            else:
                matrices.append(_of_crop(pixels, preprocessor.crop, preprocessor.size))
        scales.append(matrices[0] @ windowed @ matrices[1].mT)
    images = torch.stack(scales, dim=1).flatten(0, 1)
    return (images - preprocessor.mean) / preprocessor.std


def _of_crop(pixels: int, crop: int | None, size: int) -> Tensor:
    """Weights of the pixels in `size` new ones that divide the central `crop`, or all: float [size, pixels]."""
    count = torch.full((), pixels, dtype=torch.float64)
    extent = count if crop is None else torch.full((), crop, dtype=torch.float64)
    start = ((count - extent) / 2).floor()
    places = torch.arange(pixels) + 0.5
    weights = _triangles(places, start, extent / size, size) * ((places > start) & (places < start + extent))
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _of_field(pixels: int, extent: Tensor, size: int) -> Tensor:
    """Likewise of a field of view around the centre, which may be twice as large: edge pixels are repeated outside."""
    start = (torch.full((), pixels, dtype=torch.float64) - extent) / 2
    weights = _triangles(torch.arange(-pixels, 2 * pixels) + 0.5, start, extent / size, size)
    before, inside, after = weights[:, :pixels], weights[:, pixels : 2 * pixels], weights[:, 2 * pixels :]
    index = torch.arange(pixels)
    inside = inside + before.sum(dim=1, keepdim=True) * (index == 0)
    inside = inside + after.sum(dim=1, keepdim=True) * (index == pixels - 1)
    return (inside / inside.sum(dim=1, keepdim=True)).float()


def _triangles(places: Tensor, start: Tensor, step: Tensor, size: int) -> Tensor:
    """Bilinear weights at these places in pixels, as wide as a new pixel where it shrinks: float64 [size, places]."""
    centres = start + (torch.arange(size) + 0.5) * step
    return (1 - (places - centres[:, None]).abs() / step.clamp(min=1)).clamp(min=0)
