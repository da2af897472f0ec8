"""Paint the tissues of a chest, from the outside to the lungs, without nodules and noise."""

from __future__ import annotations

import numpy as np

from lungtl.sources.phantom.anatomy import Patient, diaphragm, heart, hilum, mediastinum, pleura
from lungtl.sources.phantom.anatomy import lungs as lungs_of
from lungtl.sources.phantom.shapes import Floats, Slab, Tubes, blend, ellipse, polyline, tube_coverage

ROOM_AIR, FAT, SOFT, MUSCLE, LIVER, BLOOD = -1000.0, -102.0, 35.0, 52.0, 58.0, 42.0
MARROW, CORTEX, DISC = 190.0, 720.0, 85.0
RIB_GAP_MM, RIB_DROP_MM = 25.0, 125.0  # between ribs; from the back of a rib to its front
RIB_DEPTH_MM = 6.5  # of the middle of a rib, outside the pleura
VERTEBRA_MM = 24.0
AIRWAY_MM, AIRWAY_WALL_MM, AIRWAY_WALL = 8.0, 1.4, -20.0
GRAVITY_HU = 0.45  # lung density per mm of depth


def paint_chest(slab: Slab, p: Patient, vessels: Tubes, fine: Floats, coarse: Floats) -> Floats:
    """The chest, float32 [S, H, W] HU.

    Args:
        slab: where.
        p: whose.
        vessels: of the lungs.
        fine: smooth noise of unit standard deviation, float32 [S, H, W].
        coarse: likewise, with larger structures.
    """
    x, y, z = slab.x, slab.y, slab.z
    wall = pleura(p, x, y, z)
    hu = np.full(slab.shape, ROOM_AIR, np.float32)
    _paint_wall(hu, slab, p, wall)
    inside = slab.coverage(wall)
    blood = BLOOD + p.contrast
    blend(hu, inside, FAT + 12)
    tissue = np.clip(0.55 + 0.36 * (fine + coarse), 0, 1)  # mixed with fat
    blend(hu, slab.coverage(mediastinum(p, x, y, z) + 2) * tissue * inside, SOFT)
    blend(hu, slab.coverage(heart(p, x, y, z)), blood)
    blend(hu, tube_coverage(slab, _aorta(p)), blood)
    blend(hu, inside * slab.coverage(-diaphragm(p, x, y, z)), LIVER + 0.25 * p.contrast)
    _paint_spine(hu, slab, p)
    # Gravity: the lung is denser towards the back.
    lung = p.air_hu + 14 * fine + 16 * coarse + GRAVITY_HU * (y - p.y)
    blend(lung, tube_coverage(slab, vessels), 0.8 * blood + 10)
    blend(hu, slab.coverage(lungs_of(p, x, y, z)), lung)
    for widened, value in ((AIRWAY_WALL_MM, AIRWAY_WALL), (0.0, ROOM_AIR)):
        for tubes in _airways(p, widened):
            blend(hu, tube_coverage(slab, tubes), value)
    return hu


def _paint_wall(hu: Floats, slab: Slab, p: Patient, wall: Floats) -> None:
    """Fat, muscle and ribs outside the pleura, whose distance `wall` is."""
    dx, dy = slab.x - p.x, slab.y - p.y
    wide = p.half_width + p.muscle + p.fat + 12 + 30 * np.clip(p.level(slab.z), 0, 1)
    skin = ellipse(dx, dy - 9, wide, p.half_depth + 0.6 * p.muscle + 0.7 * p.fat + 14, 2.35)
    skin = np.minimum(skin, wall - 10 - 0.6 * p.muscle - 0.6 * p.fat)
    blend(hu, slab.coverage(skin), FAT)
    thickest = np.exp(-(((np.abs(dx) / p.half_width - 0.98) / 0.28) ** 2))  # at the side
    thick = p.muscle * (1 + 1.2 * thickest) + 220 * np.clip(p.level(slab.z) - 0.72, 0, 0.4)  # and at the shoulders
    blend(hu, slab.coverage(np.maximum(wall - thick, skin + 0.8 * p.fat)), MUSCLE)

    angle = np.arctan2(np.abs(dx), dy + 0 * dx)  # 0 behind, pi in front
    gap = RIB_GAP_MM * p.scale
    drop = RIB_DROP_MM * p.scale * (1 - np.cos(angle)) / 2
    phase = (slab.z + drop) * np.float32(1 / gap) + p.rib_offset
    # Measured perpendicular to the rib, not along z: ribs are steepest at the side.
    across = (phase - np.floor(phase) - 0.5) * (gap / np.hypot(1, 0.62 * np.sin(angle)))
    rib = ellipse(across, wall - RIB_DEPTH_MM, 5.6, 3.6)
    rib = np.maximum(rib, slab.z + drop - p.z_apex - 6)
    blend(hu, slab.coverage(rib), CORTEX)
    blend(hu, slab.coverage(rib + 1.3), MARROW)


def _paint_spine(hu: Floats, slab: Slab, p: Patient) -> None:
    """Vertebral bodies, discs, and the processes behind."""
    k = p.scale
    dx, dy = slab.x - p.x, slab.y - p.y_spine
    phase = slab.z / (VERTEBRA_MM * k) + p.rib_offset
    phase = np.abs(phase - np.floor(phase) - 0.5) * 2  # 0 in the middle of a vertebra, 1 in a disc
    process = np.maximum(np.abs(dx) - 4 * k, np.abs(dy - 36 * k) - 18 * k) + (phase - 0.7) * 4
    bone = np.minimum(ellipse(dx, dy, 19 * k, 15 * k), process)
    blend(hu, slab.coverage(bone), CORTEX * 0.75)
    blend(hu, slab.coverage(bone + 1.8), MARROW)
    blend(hu, slab.coverage(bone + 1.0) * np.clip((phase - 0.78) * 12, 0, 1), DISC)


def _aorta(p: Patient) -> Tubes:
    """From the heart over the arch and down along the spine."""
    k, d = p.scale, p.half_depth
    points = [(4, -0.3 * d, 0.42), (-13, -0.28 * d, 0.64), (6, 0.06 * d, 0.735), (21, 0.7 * d - 23 * k, 0.66),
              (21, 0.7 * d - 23 * k, -0.6)]  # fmt: skip
    return polyline([(p.x + x * k, p.y + y, p.height(level)) for x, y, level in points],
                    [15 * k, 15 * k, 13 * k, 12 * k, 10 * k])  # fmt: skip


def _airways(p: Patient, widened_mm: float) -> list[Tubes]:
    """Trachea and main bronchi."""
    k, r = p.scale, AIRWAY_MM * p.scale + widened_mm
    carina = (p.x - 2 * k, p.y + 0.2 * p.half_depth, p.height(0.66))
    ends = [(p.x, p.y + 0.02 * p.half_depth, p.z_apex + 60), hilum(p, -1), hilum(p, 1)]
    return [polyline([carina, end], [r, r if end is ends[0] else 0.7 * r]) for end in ends]
