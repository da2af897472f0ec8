"""Augmentation of a bag's network images on the device: shift, rotation, zoom, brightness, contrast and noise.

torchvision's affine transforms fill the border with one value and Kornia would be another dependency; these are torch's
own `affine_grid` and `grid_sample`, which repeat the edge.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lungtl.data.windows import SlicePreprocessor
from lungtl.settings.sections import JitterConfig


def jitter(images: Tensor, amounts: JitterConfig, seed: int, preprocessor: SlicePreprocessor) -> Tensor:
    """Change all slices of a bag alike, with amounts drawn uniformly from -x to x; only noise differs between slices.

    Args:
        images: float [N, C, H, W], normalised by `preprocessor`.
        amounts: the largest amounts.
        seed: of the bag's draws.
        preprocessor: its windows turn shares of the widest window into shares of each.

    Returns:
        As `images`; values outside a window are clipped, as they were.
    """
    draws = 2 * torch.rand(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    down, right, turn, zoom, brightness, contrast, noise = draws.tolist()
    if amounts.shift or amounts.rotation or amounts.zoom:
        angle, scale = math.radians(amounts.rotation * turn), 1 + amounts.zoom * zoom
        images = moved(images, amounts.shift * down, amounts.shift * right, angle, scale)
    if not (amounts.brightness or amounts.contrast or amounts.noise):
        return images
    widest = preprocessor.width.max() / preprocessor.width  # [1, C, 1, 1]: its share of one is that many of another
    grey = images * preprocessor.std + preprocessor.mean  # 0 to 1 in each window
    grey = (grey - 0.5) * (1 + amounts.contrast * contrast) + 0.5 + amounts.brightness * brightness * widest
    if amounts.noise:
        generator = torch.Generator(images.device).manual_seed(seed)
        shape = (len(images), 1, *images.shape[-2:])  # the same HU in every window
        grey += amounts.noise * abs(noise) * widest * torch.randn(shape, generator=generator, device=images.device)
    jittered: Tensor = grey.clamp_(0, 1).sub_(preprocessor.mean).div_(preprocessor.std)
    return jittered


def moved(images: Tensor, down: float, right: float, angle: float, scale: float) -> Tensor:
    """Turn and scale square images about their centre, then shift them, by bilinear interpolation; the edge repeats.

    Args:
        images: float [N, C, H, H].
        down: shift as a share of H.
        right: likewise.
        angle: anticlockwise, radians.
        scale: above 1 enlarges.
    """
    # from an output position, in units of half the image, to the input's: undo the shift, then turn and scale
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    x, y = -2 * right, -2 * down
    matrix = [[cos, -sin, cos * x - sin * y], [sin, cos, sin * x + cos * y]]
    theta = images.new_tensor(matrix).expand(len(images), 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
