"""Fit an anatomy to a scan, such that its lungs contain the real nodules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lungtl.sources.lidc_nodules import Nodule
from lungtl.sources.phantom.choose import ScanPlan
from lungtl.sources.phantom.grid import Floats
from lungtl.sources.phantom.nodules import centre_mm
from lungtl.sources.phantom.patient import Patient, Push, sample_patient
from lungtl.sources.phantom.recipe import NATIVE_MATRIX, PhantomRecipe, generator
from lungtl.sources.phantom.surfaces import distances

DRAWS = 40  # random patients, of which the best fitting one is used
LUNG_DEPTH_MM = 5.0  # of a point without a nodule that must be in a lung
PASSES = 6  # making room for one nodule may move another out of the lung


def fit_patient(plan: ScanPlan, recipe: PhantomRecipe, nodules: list[Nodule]) -> Patient:
    """Sample the patient of a scan and fit the lungs around the centres of all nodules."""
    scan = plan.scan
    rng = generator(recipe, "patient", scan.series_uid)
    fov = NATIVE_MATRIX * scan.pixel_spacing_mm
    places = [centre_mm(nodule) for nodule in nodules]
    # Small nodules are entirely in the lung; a large one may be attached to the wall by half its radius.
    depths = [min(0.3 * nodule.diameter_mm, 5.0) + 1.0 for nodule in nodules]
    if plan.lung_mm is not None:
        places.append(plan.lung_mm)
        depths.append(LUNG_DEPTH_MM)
    points, depths_mm = np.array(places).reshape(-1, 3), np.array(depths)
    sampled = [sample_patient(rng, fov, scan.z_mm) for _ in range(DRAWS if places else 1)]
    best = min(sampled, key=lambda patient: shortfall(patient, points, depths_mm))
    return make_room(best, points, depths_mm)


def make_room(patient: Patient, points: NDArray[np.float64], depths_mm: NDArray[np.float64]) -> Patient:
    """Move the surfaces smoothly until each point (float64 [N, 3], x, y, z) is at its depth in a lung."""
    for _ in range(PASSES):
        pushes = list(patient.pushes)
        for point, depth in zip(points, depths_mm, strict=True):
            pushed = replace(patient, pushes=tuple(pushes))
            for surface, distance in distances(pushed, *_single(point)).items():
                lack = float(distance.ravel()[0]) + float(depth)
                if lack > 0:
                    x, y, z = (float(v) for v in point)
                    pushes.append(Push(surface, (x, y, z), 1.1 * lack + 0.5, 24.0 + 0.7 * lack))
        if len(pushes) == len(patient.pushes):
            break
        patient = replace(patient, pushes=tuple(pushes))
    return patient


def shortfall(patient: Patient, points: NDArray[np.float64], depths_mm: NDArray[np.float64]) -> float:
    """Sum over the points of the squared distance (mm2) that they lack to the required depth in a lung."""
    x, y, z = (points[:, i].astype(np.float32).reshape(-1, 1, 1) for i in range(3))
    found = distances(patient, x, y, z).values()
    return sum(float((np.maximum(d.ravel() + depths_mm, 0) ** 2).sum()) for d in found)


def _single(point: NDArray[np.float64]) -> tuple[Floats, Floats, Floats]:
    x, y, z = (np.full((1, 1, 1), v, np.float32) for v in point)
    return x, y, z
