"""What the user may choose about a phantom."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from lungtl.settings.errors import LungtlError

LEAST_FIELD_MM = 60.0  # less would not hold the largest nodules
NATIVE_MATRIX = 512  # every LIDC series is 512 x 512, and so are the indices of its contours


@dataclass(frozen=True)
class PhantomRecipe:
    """The options of a phantom; the same recipe gives the same bytes.

    Attributes:
        scans: how many series; half of them (rounded down) hold a malignant nodule.
        matrix: rows and columns of a slice, 32..512.
        field_mm: width of a targeted field of view around the nodule, as for nodule work-up; None, and always with
            matrix 512, the scanner's own.
        z_range_mm: length of the written part of each scan along z; None writes every native slice.
        seed: chooses the scans and draws the anatomy.
    """

    scans: int = 160
    matrix: int = 128
    field_mm: float | None = 70.0
    z_range_mm: float | None = 24.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.scans < 2:
            raise LungtlError(
                f"phantom scans is {self.scans}, wanted 2 or more (half positive, half negative); raise scans"
            )
        if not 32 <= self.matrix <= NATIVE_MATRIX:
            raise LungtlError(f"phantom matrix is {self.matrix}, wanted 32..512; 128 is quick, 512 is native")
        if self.field_mm is not None and not self.field_mm >= LEAST_FIELD_MM:
            raise LungtlError(
                f"phantom field_mm is {self.field_mm}, wanted {LEAST_FIELD_MM:g} or more; null is the whole chest"
            )
        if self.z_range_mm is not None and not self.z_range_mm > 0:
            raise LungtlError(f"phantom z_range_mm is {self.z_range_mm}, wanted a length > 0; null writes whole scans")
        if self.seed < 0:
            raise LungtlError(f"phantom seed is {self.seed}, wanted 0 or more; drop the sign")


def generator(recipe: PhantomRecipe, *names: str) -> np.random.Generator:
    """Make a random stream that depends on the seed and the names alone, not on what was drawn before."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng([recipe.seed, int.from_bytes(digest[:8], "big")])
