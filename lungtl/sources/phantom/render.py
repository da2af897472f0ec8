"""Render one scan: sample a patient, make room for the nodules, paint slab by slab."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lungtl.sources.lidc_nodules import cluster_nodules
from lungtl.sources.phantom.choose import ScanPlan
from lungtl.sources.phantom.fit import fit_patient
from lungtl.sources.phantom.grid import Floats, Grid, blend, make_grid
from lungtl.sources.phantom.nodules import paint_nodule
from lungtl.sources.phantom.organs import blood, paint_airways, paint_organs
from lungtl.sources.phantom.patient import Patient
from lungtl.sources.phantom.recipe import NATIVE_MATRIX, PhantomRecipe, generator
from lungtl.sources.phantom.surfaces import diaphragm, mediastinum, thorax
from lungtl.sources.phantom.texture import Mottle, add_noise, noise_level
from lungtl.sources.phantom.tubes import Tubes, tube_coverage
from lungtl.sources.phantom.vessels import bronchi, lung_trees
from lungtl.sources.phantom.wall import ROOM_AIR, paint_spine, paint_wall

SLAB_VOXELS = 3_000_000  # limits the memory of a 512 x 512 scan to about 300 MB
AIRWAY_WALL_MM = 0.9
GRAVITY_HU = 0.45  # lung density per mm of depth
HU_LOW, HU_HIGH = -1024, 3071


def render(plan: ScanPlan, recipe: PhantomRecipe) -> NDArray[np.int16]:
    """Render the voxels of one series: int16 [S, matrix, matrix], HU, ascending z."""
    scan = plan.scan
    nodules = cluster_nodules(scan)
    patient = fit_patient(plan, recipe, nodules)
    rng = generator(recipe, "voxels", scan.series_uid)
    arteries, veins = lung_trees(patient, rng)
    airways = bronchi(arteries, rng)
    fov = NATIVE_MATRIX * scan.pixel_spacing_mm
    z = plan.z_mm
    mottles = [Mottle(rng, fov / 2, (float(z[0]), float(z[-1])), cell) for cell in (5.0, 22.0)]
    pixel_mm = plan.field_mm / recipe.matrix
    deviation = noise_level(rng, fov / pixel_mm, scan.slice_thickness_mm)

    out = np.empty((len(z), recipe.matrix, recipe.matrix), np.int16)
    step = max(1, SLAB_VOXELS // recipe.matrix**2)
    for first in range(0, len(z), step):
        part = slice(first, first + step)
        grid = make_grid(recipe.matrix, pixel_mm, z[part], scan.slice_thickness_mm, plan.centre_mm)
        hu = _paint_chest(grid, patient, arteries, veins, airways, mottles)
        for nodule in nodules:
            low, high = nodule.z_range_mm
            reach = 1.5 * nodule.diameter_mm + 10
            if low - reach <= z[part][-1] and high + reach >= z[part][0]:
                paint_nodule(hu, grid, scan, nodule, generator(recipe, "nodule", scan.series_uid, str(nodule.number)))
        add_noise(hu, rng, deviation)
        out[part] = np.clip(np.rint(hu), HU_LOW, HU_HIGH).astype(np.int16)
    return out


def _paint_chest(
    grid: Grid, patient: Patient, arteries: Tubes, veins: Tubes, airways: Tubes, mottles: list[Mottle]
) -> Floats:
    """The chest without nodules and noise, float32 [S, M, M] HU."""
    x, y, z = grid.x, grid.y, grid.z
    pleura = thorax(patient, x, y, z)
    between = mediastinum(patient, x, y, z)
    fine, coarse = (mottle.sample(grid) for mottle in mottles)
    hu = np.empty(grid.shape, np.float32)
    paint_wall(hu, grid, patient, pleura)
    paint_organs(hu, grid, patient, pleura, between, 0.6 * (fine + coarse))
    paint_spine(hu, grid, patient)

    bounds = np.maximum(np.maximum(pleura, -between), diaphragm(patient, x, y, z))
    # Gravity: the lung is denser towards the back.
    lung = patient.air_hu + 14 * fine + 16 * coarse + GRAVITY_HU * (y - patient.y)
    vessels = np.maximum(tube_coverage(grid, arteries), tube_coverage(grid, veins))
    blend(lung, vessels, 0.8 * blood(patient) + 10)
    blend(lung, tube_coverage(grid, airways.widened(AIRWAY_WALL_MM)), -150.0)
    blend(lung, tube_coverage(grid, airways), ROOM_AIR)
    blend(hu, grid.coverage(bounds), lung)
    paint_airways(hu, grid, patient)
    return hu
