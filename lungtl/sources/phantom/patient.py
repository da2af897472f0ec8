"""A synthetic patient: the parameters of a chest.

Typical sizes are those of an adult with a 350 mm field of view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lungtl.sources.phantom.grid import Floats

Surface = Literal["thorax", "mediastinum", "diaphragm"]


@dataclass(frozen=True)
class Push:
    """A smooth bulge of a surface that makes room for a nodule."""

    surface: Surface  # the surface that is moved
    centre: tuple[float, float, float]  # x, y, z in mm
    height_mm: float  # displacement at the centre
    sigma_mm: float  # of the Gaussian


@dataclass(frozen=True)
class Patient:
    """Sizes in mm, unless stated otherwise.

    A level is a height relative to the lungs: 0 at their lowest, 1 at their highest point.
    """

    half_width: float  # of the rib cage, inside
    half_depth: float
    x: float  # centre of the rib cage
    y: float
    z_base: float
    z_apex: float
    squareness: float  # exponent of the rib cage's outline, 2 = ellipse
    heart: float  # relative size
    dome: tuple[float, float]  # height of the right and the left diaphragm
    fat: float  # under the skin
    muscle: float  # on the chest wall
    breast: float
    rib_offset: float
    contrast: float  # HU added to blood by contrast medium; 0 without
    air_hu: float  # of the lungs
    pushes: tuple[Push, ...] = ()

    @property
    def scale(self) -> float:
        """Size relative to an adult of average build."""
        return self.half_width / 135

    @property
    def y_spine(self) -> float:
        """Y of the centre of the vertebral bodies."""
        return self.y + 0.70 * self.half_depth

    def height(self, level: float) -> float:
        """Z of a level."""
        return self.z_base + level * (self.z_apex - self.z_base)

    def level(self, z: Floats) -> Floats:
        """Level of z."""
        return (z - self.z_base) / (self.z_apex - self.z_base)

    def bulge(self, surface: Surface, x: Floats, y: Floats, z: Floats) -> Floats | float:
        """Outward displacement of a surface by the pushes, mm."""
        total: Floats | float = 0.0
        for push in self.pushes:
            if push.surface == surface:
                (cx, cy, cz), w = push.centre, 0.5 / push.sigma_mm**2
                gx, gy, gz = (np.exp(-w * (a - c) ** 2) for a, c in zip((x, y, z), (cx, cy, cz), strict=True))
                total = total + (push.height_mm * gz * gy) * gx
        return total


def sample_patient(rng: np.random.Generator, fov_mm: float, z_mm: NDArray[np.float64]) -> Patient:
    """Sample a patient whose chest fits the field of view and the native slices z_mm of a scan."""
    # A wide field of view shows a larger patient and more air around.
    size = fov_mm * (350 / fov_mm) ** 0.35
    low, high = float(z_mm[0]), float(z_mm[-1])
    z_apex = high - rng.uniform(4, 28)
    z_base = max(low + rng.uniform(20, 60), z_apex - rng.uniform(270, 310))
    return Patient(
        half_width=size * rng.uniform(0.345, 0.425),
        half_depth=size * rng.uniform(0.245, 0.315),
        x=fov_mm * rng.uniform(-0.04, 0.04),
        y=fov_mm * rng.uniform(-0.05, 0.09),
        z_base=z_base,
        z_apex=z_apex,
        squareness=rng.uniform(2.15, 2.7),
        heart=rng.uniform(0.88, 1.12),
        dome=(rng.uniform(45, 75), rng.uniform(35, 60)),
        fat=float(np.clip(rng.lognormal(2.5, 0.5), 4, 40)),
        muscle=rng.uniform(11, 19),
        breast=max(0.0, rng.uniform(-25, 28)),
        rib_offset=rng.uniform(0, 1),
        contrast=rng.uniform(80, 230) if rng.random() < 0.5 else 0.0,
        air_hu=rng.uniform(-890, -820),
    )
