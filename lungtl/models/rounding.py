"""Whether two ways to compute a tensor differ by rounding alone."""

from __future__ import annotations

import math

from torch import Tensor


def same(found: Tensor, expected: Tensor, noise: float = 0, rounding: float | None = None) -> bool:
    """Compare by the largest difference, relative to the largest value; what is not finite is never the same.

    Args:
        found: of any shape.
        expected: of that shape.
        noise: scale of the numbers that were summed up, where they cancelled.
        rounding: the relative difference that is allowed; None: what the device may make, as it is set.
    """
    if rounding is None:
        rounding = 1e-4 if expected.device.type == "cpu" else 1e-2  # GPUs may multiply with 10 bits (TF32)
    difference = float((found - expected).detach().abs().max())
    return math.isfinite(difference) and difference <= rounding * (float(expected.detach().abs().max()) + 1e-2 * noise)
