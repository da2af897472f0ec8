"""Organs between and below the lungs: heart, great vessels, trachea, oesophagus, liver, spleen, stomach."""

from __future__ import annotations

import numpy as np

from lungtl.sources.phantom.grid import Floats, Grid, Tubes, blend, ellipse, ellipsoid, polyline, tube_coverage
from lungtl.sources.phantom.patient import Patient
from lungtl.sources.phantom.surfaces import diaphragm, heart, hilum
from lungtl.sources.phantom.wall import FAT, ROOM_AIR

BLOOD, MYOCARDIUM, OESOPHAGUS, LIVER, SPLEEN, WATER = 42.0, 48.0, 35.0, 58.0, 50.0, 12.0
CONTRAST_LIVER = 0.25  # fraction of the blood's enhancement
AIRWAY_WALL = -20.0
WALL_MM = 1.4
TRACHEA_MM = 8.5


def blood(p: Patient) -> float:
    """HU of blood vessels."""
    return BLOOD + p.contrast


def paint_organs(hu: Floats, grid: Grid, p: Patient, pleura: Floats, between: Floats, mottle: Floats) -> None:
    """Paint the thorax without lungs, and the upper abdomen, from signed distances to pleura and mediastinum."""
    inside = grid.coverage(pleura)
    blend(hu, inside, FAT + 12)
    blend(hu, grid.coverage(between + 2) * np.clip(0.55 + 0.6 * mottle, 0, 1) * inside, OESOPHAGUS)
    for side in (-1, 1):
        x, y, z = hilum(p, side)
        knot = ellipsoid(grid.x - x, grid.y - y, grid.z - z, (16 * p.scale, 13 * p.scale, 24))
        blend(hu, grid.coverage(knot), OESOPHAGUS)
    _paint_heart(hu, grid, p)
    for tubes in _great_vessels(p):
        blend(hu, tube_coverage(grid, tubes), blood(p))
    oesophagus = ellipse(grid.x - p.x - 4 * p.scale, grid.y - p.y_spine + 21 * p.scale, 8.0, 5.5)
    blend(hu, np.broadcast_to(grid.coverage(oesophagus), hu.shape) * inside, OESOPHAGUS)
    if grid.z.min() < p.height(0.0) + max(p.dome) + 5:
        _paint_abdomen(hu, grid, p, inside)
        aorta = polyline([_next_to_spine(p, 0.4), _next_to_spine(p, -0.6)], [11.5 * p.scale, 10 * p.scale])
        blend(hu, tube_coverage(grid, aorta), blood(p))


def _paint_heart(hu: Floats, grid: Grid, p: Patient) -> None:
    w = 0.75 * p.half_width
    box = grid.box(
        (p.x - w, p.y - p.half_depth, p.height(0.34) - 85),
        (p.x + w, p.y + 0.5 * p.half_depth, p.height(0.34) + 85),
    )
    part = hu[box]
    if part.size == 0:
        return
    g = grid.crop(box)
    surface = heart(p, g.x, g.y, g.z)
    blend(part, g.coverage(surface), MYOCARDIUM + 0.35 * p.contrast)
    dx, dy = g.x - p.x, g.y - p.y
    u, v = dx - 0.17 * p.half_width, dy + 0.3 * p.half_depth
    septum = np.abs(u * 0.8 - v * 0.6 + 0.004 * v * v)
    chambers = np.clip(-(surface + 6) / 6, 0, 1) * np.clip((septum - 2) / 6, 0.15, 1)
    blend(part, chambers, blood(p))
    groove = np.maximum(np.abs(dy + 0.12 * p.half_depth + 0.25 * dx) - 2.0, np.abs(surface + 4) - 4)
    blend(part, g.coverage(groove) * 0.8, FAT + 20)


def _next_to_spine(p: Patient, level: float) -> tuple[float, float, float]:
    return p.x + 21 * p.scale, p.y_spine - 23 * p.scale, p.height(level)


def _great_vessels(p: Patient) -> list[Tubes]:
    k = p.scale

    def at(x: float, y: float, level: float) -> tuple[float, float, float]:
        return p.x + x * k, p.y + y * p.half_depth, p.height(level)

    aorta = polyline(
        [at(4, -0.3, 0.42), at(-10, -0.34, 0.52), at(-13, -0.28, 0.64), at(-7, -0.14, 0.72),
         at(6, 0.06, 0.735), at(16, 0.28, 0.72),
         _next_to_spine(p, 0.64), _next_to_spine(p, 0.3), _next_to_spine(p, 0.0)],
        [15 * k, 16 * k, 15.5 * k, 14 * k, 13 * k, 12.5 * k, 12 * k, 11.5 * k, 11 * k],
    )  # fmt: skip
    vena_cava = polyline(
        [at(-24, -0.1, 0.42), at(-25, -0.14, 0.6), at(-24, -0.2, 0.74), at(-20, -0.24, 0.8)],
        [10 * k] * 3 + [8 * k],
    )
    innominate = polyline([at(-20, -0.24, 0.8), at(4, -0.34, 0.8), at(26, -0.3, 0.88)], [7 * k] * 3)
    branches = [
        polyline([at(x0, y0, 0.73), at(x1, y1, 0.84), at(x2, y2, 1.05)], [5.5 * k, 5 * k, 4.5 * k])
        for (x0, y0), (x1, y1), (x2, y2) in (
            ((-6, -0.12), (-13, -0.12), (-26, -0.05)), ((5, 0.02), (10, -0.06), (18, -0.02)),
            ((14, 0.2), (19, 0.1), (34, 0.05)),
        )
    ]  # fmt: skip
    right, left = hilum(p, -1), hilum(p, 1)
    lung_artery = [
        polyline(
            [at(14, -0.42, 0.44), at(17, -0.3, 0.54), at(20, -0.1, 0.585), left],
            [13 * k, 14 * k, 12 * k, 8 * k],
        ),
        polyline([at(15, -0.22, 0.57), at(-6, -0.06, 0.56), right], [11 * k, 10.5 * k, 8 * k]),
    ]
    veins = [
        polyline([at(s * 8, 0.05, 0.45), (x, y - 10 * k, z - 22)], [11 * k, 6 * k])
        for s, (x, y, z) in ((-1, right), (1, left))
    ]
    return [aorta, vena_cava, innominate, *branches, *lung_artery, *veins]


def paint_airways(hu: Floats, grid: Grid, p: Patient) -> None:
    """Paint trachea and main bronchi over all other tissue."""
    k = p.scale
    carina = (p.x - 2 * k, p.y + 0.2 * p.half_depth, p.height(0.66))
    top = (p.x, p.y + 0.02 * p.half_depth, p.z_apex + 60)
    tubes = [polyline([top, carina], [TRACHEA_MM * k, TRACHEA_MM * k])]
    for side in (-1, 1):
        x, y, z = hilum(p, side)
        tubes.append(polyline([carina, (x, y + 6 * k, z)], [7.5 * k, 5 * k]))
    for tube in tubes:
        blend(hu, tube_coverage(grid, tube.widened(WALL_MM)), AIRWAY_WALL)
    for tube in tubes:
        blend(hu, tube_coverage(grid, tube), ROOM_AIR)


def _paint_abdomen(hu: Floats, grid: Grid, p: Patient, inside: Floats) -> None:
    k = p.scale
    dome = -diaphragm(p, grid.x, grid.y, grid.z)  # negative below the dome
    below = inside * grid.coverage(dome)
    blend(hu, below, FAT)
    blend(hu, below * grid.coverage(dome + 1.0) * grid.coverage(-(dome + 4.0)), MYOCARDIUM)
    dx, dy = grid.x - p.x, grid.y - p.y
    liver = np.maximum(
        dome + 4,
        np.maximum(dx - 0.15 * p.half_width + 0.5 * (dy + 20) + 12 * np.sin(dy / 24), -(0.78 * p.half_depth - dy)),
    )
    blend(hu, below * grid.coverage(liver), LIVER + CONTRAST_LIVER * p.contrast)
    spleen = np.maximum(dome + 3, ellipse(dx - 0.66 * p.half_width, dy - 0.38 * p.half_depth, 34 * k, 40 * k))
    blend(hu, below * grid.coverage(spleen), SPLEEN + 0.35 * p.contrast)
    stomach = np.maximum(dome + 3, ellipse(dx - 0.48 * p.half_width, dy + 0.25 * p.half_depth, 42 * k, 38 * k))
    blend(hu, below * grid.coverage(stomach), MYOCARDIUM)
    level = dy + 0.38 * p.half_depth  # gas collects in front
    blend(hu, below * grid.coverage(stomach + 4), np.where(level > 0, WATER, -850.0).astype(np.float32))
