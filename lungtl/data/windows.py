"""Convert HU to the normalised channels of an ImageNet backbone, in batches on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lungtl.data.field_of_view import UNKNOWN_SPACING, FieldOfView, Spacing, resample
from lungtl.settings.errors import LungtlError, Refused
from lungtl.settings.sections import WINDOWS, ImageConfig

DEFAULT_WINDOWS = ("lung", "mediastinal", "wide")


def resolve_windows(
    windows: str | Sequence[str | tuple[float, float]],
    neighbours: bool,
    value_range: tuple[int, int] | None,
    channels: int = 3,
) -> list[tuple[float, float]]:
    """Resolve windows given as names, pairs or `auto` to one (centre, width), or one per channel.

    `auto` is lung, mediastinal and wide for three channels, lung for neighbouring slices (2.5D) or other numbers of
    channels, and the whole value_range if voxels are not HU.
    """
    if windows != "auto":
        named = [w for w in windows if isinstance(w, str)]
        if named and value_range is not None:
            seen = f"this dataset has grey values {value_range}"
            raise LungtlError(f"image.windows={named} are in HU, but {seen}; use image.windows=auto")
        return [WINDOWS[w] if isinstance(w, str) else (float(w[0]), float(w[1])) for w in windows]
    if value_range is not None:
        low, high = value_range
        return [((low + high) / 2, float(high - low))]
    one_per_channel = not neighbours and channels == len(DEFAULT_WINDOWS)
    return [WINDOWS[name] for name in (DEFAULT_WINDOWS if one_per_channel else DEFAULT_WINDOWS[:1])]


class SlicePreprocessor(nn.Module):
    """Window the field of view of slices, resize it to `size` pixels, and normalise.

    The field of view is the whole slice, or a centred square of `crop` pixels, or one of each of `crop_mm` millimetres,
    which is interpolated once, at the true (row, column) spacing: every scale becomes an image. `windows` are (centre,
    width) of one window for all channels, or of one per channel. With `neighbours`, frames are three neighbouring
    slices. `mean` and `std` are those of each channel on a scale of 0..1.
    """

    low: Tensor
    width: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        windows: Sequence[tuple[float, float]],
        neighbours: bool,
        size: int,
        crop: int | None,
        mean: Sequence[float],
        std: Sequence[float],
        crop_mm: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.windows = [(float(centre), float(width)) for centre, width in windows]
        self.neighbours = neighbours
        self.size = size
        self.crop = crop
        self.crop_mm = [float(mm) for mm in crop_mm]
        channels = self.windows * len(mean) if len(self.windows) == 1 else self.windows
        low = torch.tensor([centre - width / 2 for centre, width in channels])
        width = torch.tensor([width for _, width in channels])
        for name, values in (("low", low), ("width", width), ("mean", torch.tensor(mean)), ("std", torch.tensor(std))):
            self.register_buffer(name, values.view(1, -1, 1, 1), persistent=False)

    @classmethod
    def from_config(
        cls, config: ImageConfig, value_range: tuple[int, int] | None, size: int, mean: Any, std: Any
    ) -> SlicePreprocessor:
        """Resolve every `auto` in the config for a dataset and a backbone."""
        windows = resolve_windows(config.windows, config.neighbours, value_range, config.channels)
        size, crop_mm = config.resolve_size(size)
        return cls(windows, config.neighbours, size, config.crop, mean, std, crop_mm)

    @property
    def scales(self) -> int:
        """Number of images that a slice becomes."""
        return max(1, len(self.crop_mm))

    def describe(self) -> dict[str, Any]:
        """The arguments of the constructor, as JSON values."""
        crop_mm = {"crop_mm": self.crop_mm} if self.crop_mm else {}  # absent as it was before, also in cache addresses
        return {
            "windows": [list(w) for w in self.windows], "neighbours": self.neighbours, "size": self.size,
            "crop": self.crop, "mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist(),
            **crop_mm,
        }  # fmt: skip

    def fields(self, shape: tuple[int, int], spacing_mm: Spacing) -> list[FieldOfView]:
        """The field of view of each scale, in slices of a (height, width); raises Refused if one does not fit."""
        height, width = shape
        if self.crop_mm:
            return [FieldOfView.in_mm(mm, shape, spacing_mm) for mm in self.crop_mm]
        if self.crop is None:
            return [FieldOfView(0, 0, height, width)]
        if self.crop > min(height, width):
            slices = f"the slices ({height} x {width})"
            raise Refused(f"image.crop={self.crop} is larger than {slices}", "use a smaller value or null")
        return [FieldOfView((height - self.crop) // 2, (width - self.crop) // 2, self.crop, self.crop)]

    def box(self, shape: tuple[int, int], spacing_mm: Spacing) -> tuple[slice, slice]:
        """The rows and columns of a slice that the network sees."""
        return max(self.fields(shape, spacing_mm), key=lambda field: field.height).box(shape)

    def forward(self, frames: Tensor, spacing_mm: Spacing = UNKNOWN_SPACING) -> Tensor:
        """Convert slices of one volume; the images of a slice are neighbours.

        Args:
            frames: int16 [N, C, H, W]; C = 1, or 3 neighbouring slices.
            spacing_mm: (row, column).

        Returns:
            float [N * scales, channels, size, size].

        Raises:
            Refused: the field of view is too large for the slices, or is in mm and the spacing is unknown.
        """
        shape = (frames.shape[-2], frames.shape[-1])
        if not self.crop_mm:
            ((rows, columns),) = (field.box(shape) for field in self.fields(shape, spacing_mm))
            images = self._windowed(frames[..., rows, columns])
            if images.shape[-2:] != (self.size, self.size):
                images = _resize(images, self.size)
        else:
            scales = []
            for field in self.fields(shape, spacing_mm):
                part, field_in_part = field.cut(frames, self.size)
                scales.append(resample(self._windowed(part), field_in_part, self.size))
            images = torch.stack(scales, dim=1).flatten(0, 1)
        return images.sub_(self.mean).div_(self.std)

    def _windowed(self, frames: Tensor) -> Tensor:
        # in place: on a CPU, allocating memory takes as long as the arithmetic
        return (frames - self.low).div_(self.width).clamp_(0, 1)


def _resize(images: Tensor, size: int) -> Tensor:
    """Bilinear interpolation, antialiased only when shrinking: otherwise it changes nothing but takes longer."""
    if size < max(images.shape[-2:]):
        return F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    # not F.interpolate: in torch's deterministic mode it uses many small GPU operations, for a gradient that is not
    # needed here
    enlarged: Tensor = torch.ops.aten.upsample_bilinear2d(images, [size, size], False)
    return enlarged
