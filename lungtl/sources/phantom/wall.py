"""The chest wall: skin, fat, muscle, ribs, scapulae, sternum, spine, and the table."""

from __future__ import annotations

import numpy as np

from lungtl.sources.phantom.grid import Floats, Grid, blend, ellipse
from lungtl.sources.phantom.patient import Patient

ROOM_AIR, FAT, SKIN, MUSCLE, CARTILAGE = -1000.0, -102.0, -5.0, 52.0, 105.0
MARROW, CORTEX, DISC, CORD = 190.0, 720.0, 85.0, 32.0
RIB_GAP_MM, RIB_DROP_MM = 25.0, 125.0  # between ribs; from the back of a rib to its front
RIB_DEPTH_MM = 6.5  # of the middle of a rib, outside the pleura
VERTEBRA_MM = 24.0


def paint_wall(hu: Floats, grid: Grid, p: Patient, pleura: Floats) -> None:
    """Paint everything outside the pleura (signed distance, float32 [S, H, W]) into `hu`."""
    hu[...] = ROOM_AIR
    _paint_table(hu, grid, p)
    skin = _skin(grid, p, pleura)
    blend(hu, grid.coverage(skin), SKIN)
    blend(hu, grid.coverage(skin + 2.0), FAT)
    t = p.level(grid.z)
    dx, dy = grid.x - p.x, grid.y - p.y
    # Muscle is thickest at the side and behind the shoulder, and thin over the sternum.
    side = np.exp(-(((np.abs(dx) / p.half_width - 0.98) / 0.28) ** 2)) * np.exp(-(((dy - 25) / 65) ** 2))
    upper = np.clip((t - 0.15) / 0.5, 0, 1) + 1.5 * np.clip((t - 0.75) / 0.2, 0, 1)
    front = np.exp(-(((np.abs(dx) / p.half_width - 0.55) / 0.3) ** 2)) * np.clip((t - 0.4) * 4, 0, 1) * (dy < 0)
    behind = np.exp(-((dx / (0.55 * p.half_width)) ** 2)) * np.clip(dy / p.half_depth, 0, 1)
    shoulder = 220 * np.clip(t - 0.72, 0, 0.4)
    thick = p.muscle * (0.75 + 1.9 * side * upper + 0.9 * front + 0.8 * behind) + shoulder
    muscle = np.maximum(pleura - thick, skin + 2 + 0.8 * p.fat)
    blend(hu, grid.coverage(muscle), MUSCLE)
    # Fat planes separate the layers of muscle.
    wavy = pleura + 5 * np.sin(dx * 0.06) * np.cos(dy * 0.07)
    plane = np.minimum(np.abs(wavy - 20), np.abs(wavy - 37 - 0.08 * dy)) - 0.8
    blend(hu, grid.coverage(np.maximum(np.maximum(plane, muscle), 10 - pleura)) * 0.8, FAT)
    _paint_scapulae(hu, grid, p, pleura, skin)
    _paint_ribs(hu, grid, p, pleura)
    _paint_sternum(hu, grid, p)


def _skin(grid: Grid, p: Patient, pleura: Floats) -> Floats:
    t = p.level(grid.z)
    side = p.muscle * 0.9 + p.fat + 12 + 20 * np.clip((t - 0.1) / 0.5, 0, 1) + 25 * np.clip((t - 0.7) / 0.2, 0, 1)
    depth = p.muscle * 0.55 + 0.7 * p.fat + 16 - 12 * np.clip((t - 0.8) / 0.2, 0, 1)
    dx, dy = grid.x - p.x, grid.y - p.y - 9
    a, b, n = p.half_width + side, p.half_depth + depth, 2.35
    f = (np.abs(dx / a) ** n + np.abs(dy / b) ** n + np.float32(1e-4)) ** np.float32(1 / n)
    skin = np.sqrt(dx * dx + dy * dy) * (1 - 1 / f)
    # The back is flat on the table, with a groove over the spine.
    skin = np.maximum(skin, dy - b * 0.96 + 3 * np.exp(-((dx / 14) ** 2)))
    if p.breast:
        shape = np.exp(-(((np.abs(dx) / p.half_width - 0.55) / 0.27) ** 2)) * np.exp(-(((t - 0.36) / 0.16) ** 2))
        skin = skin - p.breast * shape * np.exp(-(((dy + b * 0.85) / 35) ** 2))
    outside_ribs: Floats = np.minimum(skin, pleura - 10 - 0.6 * p.muscle - 0.6 * p.fat)
    return outside_ribs


def _paint_table(hu: Floats, grid: Grid, p: Patient) -> None:
    dx = grid.x
    top = p.y + p.half_depth + p.muscle * 0.55 + 0.7 * p.fat + 28 - dx * dx * np.float32(1 / 1500)
    for below, value in ((0.0, -650.0), (16.0, -780.0)):
        shell = np.maximum(np.abs(grid.y - top - below) - 1.2, np.abs(dx) - 190)
        blend(hu, np.broadcast_to(grid.coverage(shell), hu.shape), value)


def _bone(hu: Floats, grid: Grid, distance: Floats, cortex_mm: float, marrow: float = MARROW) -> None:
    blend(hu, grid.coverage(distance), CORTEX)
    blend(hu, grid.coverage(distance + cortex_mm), marrow)


def _paint_ribs(hu: Floats, grid: Grid, p: Patient, pleura: Floats) -> None:
    dx, dy = grid.x - p.x, grid.y - p.y
    angle = np.arctan2(np.abs(dx), dy + 0 * dx)  # 0 behind, pi in front
    drop = RIB_DROP_MM * p.scale * (1 - np.cos(angle)) / 2
    gap = RIB_GAP_MM * p.scale
    phase = (grid.z + drop) * np.float32(1 / gap) + p.rib_offset
    # Measured perpendicular to the rib, not along z: ribs are steepest at the side.
    tilt = 1 / np.hypot(1, 0.62 * np.sin(angle))
    across = (phase - np.floor(phase) - 0.5) * (gap * tilt)
    distance = ellipse(across, pleura - RIB_DEPTH_MM, 5.6, 3.6)
    below_first = grid.z + drop - p.z_apex - 6
    distance = np.maximum(distance, np.maximum(below_first, (0.22 - angle) * 80))
    front = np.clip((angle - 2.35) * 4, 0, 1)
    blend(hu, grid.coverage(distance), CORTEX + front * (CARTILAGE - CORTEX))
    blend(hu, grid.coverage(distance + 1.3), MARROW + front * (CARTILAGE - MARROW))


def _paint_scapulae(hu: Floats, grid: Grid, p: Patient, pleura: Floats, skin: Floats) -> None:
    t = p.level(grid.z)
    dx, dy = np.abs(grid.x - p.x), grid.y - p.y
    length = 42 * p.scale * np.sqrt(np.clip((t - 0.5) / 0.3, 0, 1))
    along = dx * 0.80 - dy * 0.60 - 0.42 * p.half_width
    blade = np.maximum(np.abs(pleura - 24 - 0.22 * along) - 2.3, np.abs(along) - length)
    blade = np.maximum(np.maximum(blade, skin + 8), (0.0 - dy))
    _bone(hu, grid, np.where(length > 1, blade, np.float32(99)), 1.4)


def _paint_sternum(hu: Floats, grid: Grid, p: Patient) -> None:
    t = p.level(grid.z)
    width = np.interp(t, [0.2, 0.26, 0.7, 0.74, 0.82, 0.86], [0, 17, 17, 26, 26, 0]).astype(np.float32) * p.scale
    # The outline of the thorax is flattened in front by 11 %.
    y = p.y - 0.90 * p.half_depth - 8 + np.maximum(t - 0.6, 0) * 60
    distance = ellipse(grid.x - p.x, grid.y - y, width + 0.1, 6.5)
    _bone(hu, grid, np.where(width > 1, distance, np.float32(99)), 1.5, 140.0)


def paint_spine(hu: Floats, grid: Grid, p: Patient) -> None:
    """Paint the vertebrae, their processes and the adjacent muscles over the mediastinum."""
    k = p.scale
    reach = (p.x - 70 * k, p.y_spine - 30 * k, -1e9), (p.x + 70 * k, p.y_spine + 75 * k, 1e9)
    box = grid.box(*reach)
    part, g = hu[box], grid.crop(box)
    if part.size == 0:
        return
    dx, dy = g.x - p.x, g.y - p.y_spine
    phase = g.z / (VERTEBRA_MM * k) + p.rib_offset
    phase = np.abs(phase - np.floor(phase) - 0.5) * 2  # 0 in the middle of a vertebra, 1 in a disc
    for side in (-1, 1):
        blend(part, g.coverage(ellipse(dx - side * 27 * k, dy - 34 * k, 25 * k, 16 * k)), MUSCLE)
    arch = ellipse(dx, dy - 24 * k, 15 * k, 14 * k)
    spinous = np.maximum(np.abs(dx) - 3.2 * k, np.abs(dy - 42 * k) - 14 * k)
    wing = np.abs(dy - 24 * k - 0.12 * np.abs(dx)) - 5.5 * k
    transverse = np.maximum(np.maximum(wing, np.abs(dx) - 33 * k), (phase - 0.55) * 12)
    _bone(part, g, np.minimum(np.minimum(arch, transverse), spinous + (phase - 0.7) * 4), 1.8)
    body = ellipse(dx, dy, 19 * k, 15 * k)
    body = np.maximum(body, 9 * k - np.hypot(dx, dy - 23 * k))
    blend(part, g.coverage(body), CORTEX * 0.75 + 120 * phase)
    blend(part, g.coverage(body + 1.8), MARROW + 10)
    blend(part, g.coverage(body + 1.0) * np.clip((phase - 0.78) * 12, 0, 1), DISC)
    blend(part, g.coverage(np.hypot(dx, dy - 23 * k) - 8 * k), CORD)
