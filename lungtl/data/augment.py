"""Augmentation: flips and quarter turns of a bag."""

from __future__ import annotations

import torch
from torch import Tensor

DIHEDRAL_VIEWS = 8
"""View 0 is the bag itself; 0 to 3 are its quarter turns, 4 to 7 are these mirrored."""


def dihedral(frames: Tensor, view: int) -> Tensor:
    """One of the eight views, the same for all slices of a bag: [S, C, H, W]."""
    mirrored, turns = divmod(view, 4)
    turned = torch.rot90(frames, turns, dims=(-2, -1)) if turns else frames
    return turned.flip(-1) if mirrored else turned


def random_view(generator: torch.Generator) -> int:
    """A random view, all equally likely."""
    return int(torch.randint(DIHEDRAL_VIEWS, (), generator=generator))
