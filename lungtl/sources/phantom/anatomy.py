"""A synthetic patient: the surfaces that bound the lungs, as signed distances in mm, fitted around the real nodules."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lungtl.sources.lidc_nodules import Nodule
from lungtl.sources.phantom.choose import PhantomRecipe, ScanPlan, generator
from lungtl.sources.phantom.nodules import centre_mm
from lungtl.sources.phantom.shapes import NATIVE_MATRIX, Floats, Point, ellipse, ellipsoid, segment, smooth_min

DRAWS = 40  # random patients, of which the best fitting one is used
LUNG_DEPTH_MM = 5.0  # of a point without a nodule that must be in a lung
ROOM_MM = 8.0  # lung around a nodule that would be outside of it, in addition to its depth


@dataclass(frozen=True)
class Patient:
    """Sizes in mm, unless stated otherwise; an adult's with a 350 mm field of view.

    A level is a height relative to the lungs: 0 at their lowest, 1 at their highest point.
    """

    half_width: float  # of the rib cage, inside
    half_depth: float
    x: float  # centre of the rib cage
    y: float
    z_base: float
    z_apex: float
    heart: float  # relative size
    dome: float  # height of the diaphragm
    fat: float  # under the skin
    muscle: float  # on the chest wall
    rib_offset: float
    contrast: float  # HU added to blood by contrast medium; 0 without
    air_hu: float  # of the lungs
    rooms: tuple[tuple[Floats, Floats, float], ...] = ()  # start, end, radius of the parts of a lung around nodules

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


def pleura(p: Patient, x: Floats, y: Floats, z: Floats) -> Floats:
    """Distance to the inside of the rib cage, which contains both lungs and the mediastinum."""
    t = np.clip(p.level(z), -0.3, 1)
    above, below = np.maximum(t - 0.3, 0) / 0.7, np.maximum(0.3 - t, 0)
    narrowing = np.sqrt(np.maximum(1 - above**2.6, 0.03)) - 0.5 * below**2
    dx, dy = x - p.x, y - p.y - 56 * np.maximum(t - 0.5, 0) ** 2
    return _with_rooms(p, ellipse(dx, dy, p.half_width * narrowing, p.half_depth * narrowing, 2.4), x, y, z)


def mediastinum(p: Patient, x: Floats, y: Floats, z: Floats) -> Floats:
    """Distance to the space between the lungs: heart, great vessels, hila, spine."""
    k, t = p.scale, np.clip(p.level(z), 0, 1)
    dx, dy = x - p.x, y - p.y
    out = ellipse(dx, dy + 0.08 * p.half_depth, (22 + 18 * t) * k, 0.75 * p.half_depth)
    out = smooth_min(out, heart(p, x, y, z), 10 * k)
    out = smooth_min(out, ellipse(dx, y - p.y_spine - 8 * k, 24 * k, 30 * k), 14 * k)
    for side in (-1, 1):
        hx, hy, hz = hilum(p, side)
        out = smooth_min(out, ellipsoid(x - hx, y - hy, z - hz, (17 * k, 14 * k, 26)), 14 * k)
    return out


def heart(p: Patient, x: Floats, y: Floats, z: Floats) -> Floats:
    """Distance to the heart."""
    dx, dy, dz = x - p.x - 0.11 * p.half_width, y - p.y + 0.30 * p.half_depth, z - p.height(0.34)
    axes = (0.47 * p.half_width * p.heart, 0.5 * p.half_depth * p.heart, 54 * p.heart)
    return ellipsoid(dx * 0.9 + dy * 0.44, dy * 0.9 - dx * 0.44, dz + 0.35 * dx, axes)  # the apex is lower


def hilum(p: Patient, side: int) -> Point:
    """Point where vessels and bronchus enter a lung; side -1 is the patient's right."""
    return p.x + side * 36 * p.scale, p.y + 0.12 * p.half_depth, p.height(0.55)


def diaphragm(p: Patient, x: Floats, y: Floats, z: Floats) -> Floats:
    """Distance to the domes under the lungs; positive below them."""
    u = (np.abs(x - p.x) - 0.46 * p.half_width) / (0.52 * p.half_width)
    v = (y - p.y + 0.15 * p.half_depth) / p.half_depth
    top = p.height(0.0) + p.dome * np.maximum(1 - u * u - v * v, -0.6)
    # The wall of the dome is steep, so the distance is less than the vertical gap.
    distance: Floats = (top - z) * np.float32(0.75)
    return distance


def lungs(p: Patient, x: Floats, y: Floats, z: Floats) -> Floats:
    """Distance to both lungs."""
    inside = np.maximum(np.maximum(pleura(p, x, y, z), -mediastinum(p, x, y, z)), diaphragm(p, x, y, z))
    return _with_rooms(p, inside, x, y, z)


def _with_rooms(p: Patient, distance: Floats, x: Floats, y: Floats, z: Floats) -> Floats:
    for start, end, radius in p.rooms:
        distance = smooth_min(distance, segment(x, y, z, start, end)[1] - np.float32(radius), 16.0)
    return distance


def fit_patient(plan: ScanPlan, recipe: PhantomRecipe, nodules: list[Nodule]) -> Patient:
    """Sample the patient of a scan, and extend the lungs to the centres of those nodules that are not deep in them."""
    scan = plan.scan
    rng = generator(recipe, "patient", scan.series_uid)
    fov = NATIVE_MATRIX * scan.pixel_spacing_mm
    places = [centre_mm(nodule) for nodule in nodules]
    # Small nodules are entirely in the lung; a large one may be attached to the wall by half its radius.
    depths = [min(0.3 * nodule.diameter_mm, 5.0) + 1.0 for nodule in nodules]
    if plan.lung_mm is not None:
        places.append(plan.lung_mm)
        depths.append(LUNG_DEPTH_MM)
    points, depths_mm = np.array(places, np.float32).reshape(-1, 3), np.array(depths, np.float32)

    def lack(patient: Patient) -> Floats:
        """What each point lacks to its depth in a lung, mm."""
        x, y, z = (points[:, i].reshape(-1, 1, 1) for i in range(3))
        missing: Floats = np.maximum(lungs(patient, x, y, z).ravel() + depths_mm, 0)
        return missing

    sampled = [sample_patient(rng, fov, scan.z_mm) for _ in range(DRAWS if places else 1)]
    best = min(sampled, key=lambda patient: float((lack(patient) ** 2).sum()))
    rooms = [
        (point, _middle_of_lung(best, point), float(depth) + ROOM_MM)
        for point, depth, missing in zip(points, depths_mm, lack(best), strict=True)
        if missing > 0
    ]
    return replace(best, rooms=tuple(rooms))


def _middle_of_lung(p: Patient, point: Floats) -> Floats:
    """A point in the middle of the nearer lung, as high as the given one if the lung reaches there."""
    side = 1 if point[0] > p.x else -1
    z = float(np.clip(point[2], p.height(0.3), p.height(0.85)))
    return np.array([p.x + side * 0.55 * p.half_width, p.y + 0.1 * p.half_depth, z], np.float32)


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
        heart=rng.uniform(0.88, 1.12),
        dome=rng.uniform(40, 70),
        fat=float(np.clip(rng.lognormal(2.5, 0.5), 4, 40)),
        muscle=rng.uniform(11, 19),
        rib_offset=rng.uniform(0, 1),
        contrast=rng.uniform(80, 230) if rng.random() < 0.5 else 0.0,
        air_hu=rng.uniform(-890, -820),
    )
