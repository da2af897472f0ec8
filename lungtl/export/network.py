"""The network of an export: the voxels of one scan -> its probability and the weights of its slices.

It computes what `lungtl.models.inference.predict_volume` does, in operations that keep the numbers of slices, rows and
columns open. The field of view is resampled by two matrices, so that neither the formula nor the code depends on
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
        index = torch.arange(len(voxels))
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
    height, width = frames.shape[-2:]
    if (crop := preprocessor.crop) is not None and not preprocessor.crop_mm:
        top, left = (height - crop) // 2, (width - crop) // 2
        frames, height, width = frames[..., top : top + crop, left : left + crop], crop, crop
    windowed = ((frames - preprocessor.low) / preprocessor.width).clamp(0, 1)
    scales = []
    for mm in preprocessor.crop_mm or [None]:
        rows, columns = (
            _interpolation(pixels, None if mm is None or pixel_spacing_mm is None else mm / pixel_spacing_mm[axis],
                           preprocessor.size)
            for axis, pixels in enumerate((height, width))
        )  # fmt: skip
        scales.append(rows @ windowed @ columns.mT)
    images = torch.stack(scales, dim=1).flatten(0, 1)
    return (images - preprocessor.mean) / preprocessor.std


def _interpolation(pixels: int, extent: Tensor | None, size: int) -> Tensor:
    """The matrix of `lungtl.data.field_of_view.interpolation`: float [size, pixels].

    `extent` is that of the field of view in pixels, around the centre; None: all of them.
    """
    centre = torch.full((), pixels / 2, dtype=torch.float64)
    length = 2 * centre if extent is None else extent.double()
    step = length / size
    centres = centre - length / 2 + (torch.arange(size) + 0.5) * step
    # a field of view may be twice as large as the slice; its edge pixels are repeated outside
    places = torch.arange(-pixels, 2 * pixels) + 0.5
    triangles = (1 - (places - centres[:, None]).abs() / step.clamp(min=1)).clamp(min=0)
    before, inside, after = triangles[:, :pixels], triangles[:, pixels : 2 * pixels], triangles[:, 2 * pixels :]
    if extent is not None:
        index = torch.arange(pixels)
        inside = inside + before.sum(dim=1, keepdim=True) * (index == 0)
        inside = inside + after.sum(dim=1, keepdim=True) * (index == pixels - 1)
    return (inside / inside.sum(dim=1, keepdim=True)).float()
