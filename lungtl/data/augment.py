"""Random views of a bag while training."""

from __future__ import annotations

import torch
from torch import Tensor


def random_dihedral(frames: Tensor) -> Tensor:
    """One of the eight flips and quarter turns, the same for all slices of a bag: [S, C, H, W]."""
    turns = int(torch.randint(4, ()))
    turned = torch.rot90(frames, turns, dims=(-2, -1))
    return turned.flip(-1) if torch.rand(()) < 0.5 else turned
