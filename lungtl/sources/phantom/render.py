"""Render one scan: sample a patient, make room for the nodules, paint slab by slab."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lungtl.sources.lidc_nodules import cluster_nodules
from lungtl.sources.phantom.anatomy import fit_patient
from lungtl.sources.phantom.chest import paint_chest
from lungtl.sources.phantom.choose import PhantomRecipe, ScanPlan, generator
from lungtl.sources.phantom.nodules import paint_nodule
from lungtl.sources.phantom.shapes import NATIVE_MATRIX, Floats, Slab, make_slab
from lungtl.sources.phantom.vessels import lung_vessels

NOISE_HU = 17.0  # of a 2.5 mm slice at 512 x 512
NOISE_SPREAD = 0.3  # between patients, standard deviation of the logarithm
AVERAGING = 0.55  # noise falls with matrix ** 0.55, as in LIDC-IDRI-0063 (12.5 HU at 512, 5.9 at 128)
GRAIN_PX = 0.55
SLAB_VOXELS = 3_000_000  # limits the memory of a 512 x 512 scan to about 300 MB
HU_LOW, HU_HIGH = -1024, 3071


def render(plan: ScanPlan, recipe: PhantomRecipe) -> NDArray[np.int16]:
    """Render the voxels of one series: int16 [S, matrix, matrix], HU, ascending z."""
    scan = plan.scan
    nodules = cluster_nodules(scan)
    patient = fit_patient(plan, recipe, nodules)
    rng = generator(recipe, "voxels", scan.series_uid)
    vessels = lung_vessels(patient, rng)
    fov = NATIVE_MATRIX * scan.pixel_spacing_mm
    z = plan.z_mm
    mottles = [Mottle(rng, fov / 2, (float(z[0]), float(z[-1])), cell) for cell in (5.0, 22.0)]
    pixel_mm = plan.field_mm / recipe.matrix
    deviation = noise_level(rng, fov / pixel_mm, scan.slice_thickness_mm)

    out = np.empty((len(z), recipe.matrix, recipe.matrix), np.int16)
    step = max(1, SLAB_VOXELS // recipe.matrix**2)
    for first in range(0, len(z), step):
        part = slice(first, first + step)
        slab = make_slab(recipe.matrix, pixel_mm, z[part], scan.slice_thickness_mm, plan.centre_mm)
        hu = paint_chest(slab, patient, vessels, *(mottle.sample(slab) for mottle in mottles))
        for nodule in nodules:
            low, high = nodule.z_range_mm
            reach = 1.5 * nodule.diameter_mm + 10
            if low - reach <= z[part][-1] and high + reach >= z[part][0]:
                paint_nodule(hu, slab, scan, nodule, generator(recipe, "nodule", scan.series_uid, str(nodule.number)))
        add_noise(hu, rng, deviation)
        out[part] = np.clip(np.rint(hu), HU_LOW, HU_HIGH).astype(np.int16)
    return out


class Mottle:
    """A smooth random field in space with unit standard deviation, independent of the sampling grid."""

    def __init__(self, rng: np.random.Generator, reach_mm: float, z_mm: tuple[float, float], cell_mm: float) -> None:
        n = int(np.ceil(2 * reach_mm / cell_mm)) + 2
        layers = int(np.ceil((z_mm[1] - z_mm[0]) / cell_mm)) + 2
        self._values = rng.standard_normal((layers, n, n), dtype=np.float32)
        self._start = (z_mm[0], -reach_mm, -reach_mm)
        self._cell = cell_mm

    def sample(self, slab: Slab) -> Floats:
        """Interpolate linearly between the random values: float32 [S, H, W]."""
        field: Floats = self._values
        for axis, (coordinates, start) in enumerate(zip((slab.z, slab.y, slab.x), self._start, strict=True)):
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
