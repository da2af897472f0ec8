"""Surfaces that bound the lungs, as signed distances in mm (negative inside), fitted around the real nodules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lungtl.sources.lidc_nodules import Nodule
from lungtl.sources.phantom.choose import PhantomRecipe, ScanPlan, generator
from lungtl.sources.phantom.grid import NATIVE_MATRIX, Floats, ellipse, ellipsoid, smooth_min
from lungtl.sources.phantom.nodules import centre_mm
from lungtl.sources.phantom.patient import Patient, Push, Surface, sample_patient

DRAWS = 40  # random patients, of which the best fitting one is used
LUNG_DEPTH_MM = 5.0  # of a point without a nodule that must be in a lung
PASSES = 6  # making room for one nodule may move another out of the lung


def distances(patient: Patient, x: Floats, y: Floats, z: Floats) -> dict[Surface, Floats]:
    """Signed distance to each surface that bounds the lungs; all are negative inside the lungs."""
    return {
        "thorax": thorax(patient, x, y, z),
        "mediastinum": -mediastinum(patient, x, y, z),
        "diaphragm": diaphragm(patient, x, y, z),
    }


def thorax(p: Patient, x: Floats, y: Floats, z: Floats) -> Floats:
    """Distance to the pleura; both lungs and the mediastinum are inside."""
    t = np.clip(p.level(z), -0.3, 1)
    above, below = np.maximum(t - 0.3, 0) / 0.7, np.maximum(0.3 - t, 0)
    narrowing = np.sqrt(np.maximum(1 - above**2.6, 0.03)) - 0.5 * below**2
    depth = narrowing - 0.12 * above * (1 - above)
    dx, dy = x - p.x, y - p.y - 14 * np.maximum(t - 0.5, 0) ** 2 * 4
    n = p.squareness
    powers = np.abs(dx / (p.half_width * narrowing)) ** n + np.abs(dy / (p.half_depth * depth)) ** n
    f = np.maximum(powers, np.float32(1e-4)) ** np.float32(1 / n)
    # Spine and sternum flatten the outline.
    flat = (1 - 0.11 * np.exp(-((dx / (0.2 * p.half_width)) ** 2))).astype(np.float32)
    radius = np.sqrt(dx * dx + dy * dy)
    distance: Floats = radius * (1 - flat / f) - p.bulge("thorax", x, y, z)
    return distance


def mediastinum(p: Patient, x: Floats, y: Floats, z: Floats) -> Floats:
    """Distance to the space between the lungs: heart, great vessels, hila, spine."""
    k, t = p.scale, p.level(z)
    dx, dy = x - p.x, y - p.y
    width = np.interp(t, [0, 0.35, 0.6, 0.72, 0.85, 1.1], [20, 24, 34, 41, 37, 38]).astype(np.float32) * k
    column = ellipse(dx - 2 * k, dy + 0.08 * p.half_depth, width, 0.72 * p.half_depth)
    fold = np.maximum(np.abs(dx - 3 * k) - 2.5, dy - 0.1 * p.half_depth)
    fold = np.maximum(fold, (t - 0.85) * 100)
    out = smooth_min(column, fold, 12 * k)
    out = smooth_min(out, heart(p, x, y, z, 4.0), 10 * k)
    out = smooth_min(out, ellipse(dx, y - p.y_spine - 8 * k, 24 * k, 30 * k), 14 * k)
    aorta = np.hypot(dx - 21 * k, y - p.y_spine + 22 * k) - 14 * k
    out = smooth_min(out, np.maximum(aorta, (t - 0.72) * 200), 6 * k)
    for side in (-1, 1):
        hx, hy, hz = hilum(p, side)
        out = smooth_min(out, ellipsoid(x - hx, y - hy, z - hz, (17 * k, 14 * k, 26)), 14 * k)
    shrunk: Floats = out + p.bulge("mediastinum", x, y, z)
    return shrunk


def heart(p: Patient, x: Floats, y: Floats, z: Floats, margin_mm: float = 0.0) -> Floats:
    """Distance to the heart, or to a surface `margin_mm` outside it."""
    a, b = 0.45 * p.half_width * p.heart, 0.5 * p.half_depth * p.heart
    dx, dy, dz = x - p.x - 0.11 * p.half_width, y - p.y + 0.30 * p.half_depth, z - p.height(0.34)
    u, v = dx * 0.9 + dy * 0.44, dy * 0.9 - dx * 0.44
    w = dz + 0.35 * dx  # the apex is lower than the base
    return ellipsoid(u, v, w, (a + margin_mm, b + margin_mm, 52 * p.heart + margin_mm))


def hilum(p: Patient, side: int) -> tuple[float, float, float]:
    """Point where vessels and bronchus enter a lung; side -1 is the patient's right."""
    return p.x + side * 36 * p.scale, p.y + 0.12 * p.half_depth, p.height(0.53 if side < 0 else 0.56)


def diaphragm(p: Patient, x: Floats, y: Floats, z: Floats) -> Floats:
    """Distance to the domes under the lungs; positive below them."""
    dx, dy = x - p.x, y - p.y
    left = np.clip(0.5 + dx / 40, 0, 1)
    rho2 = ((np.abs(dx) - 0.46 * p.half_width) / (0.52 * p.half_width)) ** 2 + (
        (dy + 0.15 * p.half_depth) / (1.0 * p.half_depth)
    ) ** 2
    rise = np.maximum(1 - rho2, -0.6)
    top = p.height(0.0) + (p.dome[0] + left * (p.dome[1] - p.dome[0])) * rise
    # The wall of the dome is steep, so the distance is less than the vertical gap.
    distance: Floats = (top - z) * np.float32(0.75) - p.bulge("diaphragm", x, y, z)
    return distance


def lungs(p: Patient, x: Floats, y: Floats, z: Floats) -> Floats:
    """Distance to both lungs."""
    surfaces = distances(p, x, y, z)
    return np.maximum(np.maximum(surfaces["thorax"], surfaces["mediastinum"]), surfaces["diaphragm"])


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
            x, y, z = (np.full((1, 1, 1), v, np.float32) for v in point)
            for surface, distance in distances(pushed, x, y, z).items():
                lack = float(distance.ravel()[0]) + float(depth)
                if lack > 0:
                    centre = (float(point[0]), float(point[1]), float(point[2]))
                    pushes.append(Push(surface, centre, 1.1 * lack + 0.5, 24.0 + 0.7 * lack))
        if len(pushes) == len(patient.pushes):
            break
        patient = replace(patient, pushes=tuple(pushes))
    return patient


def shortfall(patient: Patient, points: NDArray[np.float64], depths_mm: NDArray[np.float64]) -> float:
    """Sum over the points of the squared distance (mm2) that they lack to the required depth in a lung."""
    x, y, z = (points[:, i].astype(np.float32).reshape(-1, 1, 1) for i in range(3))
    found = distances(patient, x, y, z).values()
    return sum(float((np.maximum(d.ravel() + depths_mm, 0) ** 2).sum()) for d in found)
