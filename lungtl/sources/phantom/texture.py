"""Random fields: texture of the lungs and noise of the scanner."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from lungtl.sources.phantom.grid import Floats, Grid
from lungtl.sources.phantom.recipe import NATIVE_MATRIX

NOISE_HU = 17.0  # of a 2.5 mm slice at 512 x 512
NOISE_SPREAD = 0.3  # between patients, standard deviation of the logarithm
AVERAGING = 0.55  # noise falls with matrix ** 0.55, as in LIDC-IDRI-0063 (12.5 HU at 512, 5.9 at 128)
GRAIN_PX = 0.55


class Mottle:
    """A smooth random field in space with unit standard deviation, independent of the sampling grid."""

    def __init__(self, rng: np.random.Generator, reach_mm: float, z_mm: tuple[float, float], cell_mm: float) -> None:
        n = int(np.ceil(2 * reach_mm / cell_mm)) + 2
        layers = int(np.ceil((z_mm[1] - z_mm[0]) / cell_mm)) + 2
        self._values = rng.standard_normal((layers, n, n), dtype=np.float32)
        self._start = (z_mm[0], -reach_mm, -reach_mm)
        self._cell = cell_mm

    def sample(self, grid: Grid) -> Floats:
        """Interpolate linearly between the random values: float32 [S, H, W]."""
        field: Floats = self._values
        for axis, (coordinates, start) in enumerate(zip((grid.z, grid.y, grid.x), self._start, strict=True)):
            position = (coordinates.ravel() - start) / self._cell
            lower = np.clip(position.astype(int), 0, field.shape[axis] - 2)
            shape = [1, 1, 1]
            shape[axis] = -1
            weight = np.clip(position - lower, 0, 1).astype(np.float32).reshape(shape)
            low, high = field.take(lower, axis), field.take(lower + 1, axis)
            field = low + weight * (high - low)
        return field * np.float32(1.9)  # interpolation halves the standard deviation


def noise_level(rng: np.random.Generator, matrix: float, thickness_mm: float) -> float:
    """Standard deviation of a patient's noise in HU; `matrix` is the number of pixels across the full field."""
    patient = float(np.exp(rng.normal(0, NOISE_SPREAD)))
    averaging = float((matrix / NATIVE_MATRIX) ** AVERAGING)
    return NOISE_HU * patient * float(np.sqrt(2.5 / thickness_mm)) * averaging


def add_noise(hu: Floats, rng: np.random.Generator, deviation: float) -> None:
    """Add correlated noise in place, stronger in the middle of the body."""
    m = hu.shape[1]
    axis = np.linspace(-1, 1, m, dtype=np.float32)
    centre = 0.65 + 0.5 * np.exp(-(axis**2)[:, None] / 0.3 - (axis**2)[None] / 0.5)
    grain = rng.standard_normal(hu.shape, dtype=np.float32)
    grain = ndimage.gaussian_filter(grain, (0, GRAIN_PX, GRAIN_PX), truncate=3)
    # 0.61 is the measured standard deviation of white noise after the filter above.
    hu += grain * (centre * np.float32(deviation / 0.61)).astype(np.float32)
