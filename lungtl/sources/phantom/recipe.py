"""The options of a phantom, and its random streams."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

NATIVE_MATRIX = 512  # all LIDC series are 512 x 512, and contours are in these pixels


@dataclass(frozen=True)
class PhantomRecipe:
    """The options that define every byte of a phantom."""

    scans: int = 160  # number of series; half of them (rounded down) contain a malignant nodule
    matrix: int = 128  # rows and columns of a slice, 32..512
    field_mm: float | None = (
        70.0  # of a targeted field of view around the nodule; None: the full field, as always with 512
    )
    z_range_mm: float | None = 24.0  # length of the written part of each scan along z; None writes every native slice
    seed: int = 0  # selects the scans and generates the anatomy


def generator(recipe: PhantomRecipe, *names: str) -> np.random.Generator:
    """A random stream that depends only on the seed and the names, not on earlier draws."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng([recipe.seed, int.from_bytes(digest[:8], "big")])
