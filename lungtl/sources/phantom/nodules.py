"""Nodules with the outlines that the readers drew and the composition that they rated."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from lungtl.sources.lidc_database import Contour, Scan
from lungtl.sources.lidc_nodules import Nodule
from lungtl.sources.phantom.shapes import NATIVE_MATRIX, Floats, Slab, Tubes, tube_coverage

PAD_PX = 8  # native pixels around the outlines, for blur
TEXTURE = (1.0, 2.0, 3.0, 4.0, 5.0)
RIM_HU = (-560.0, -470.0, -330.0, -90.0, 25.0)  # by texture: ground glass ... solid
CORE_HU = (-540.0, -300.0, 5.0, 25.0, 30.0)
CORE_FROM = 0.42  # relative depth at which the core begins
ABSENT = 6  # calcification


@dataclass(frozen=True)
class Composition:
    """Mean ratings of a nodule's composition and margin."""

    texture: float
    margin: float
    spiculation: float
    calcification: int

    @classmethod
    def of(cls, nodule: Nodule) -> Composition:
        """Average the ratings; calcification is categorical, so the most frequent category is used."""

        def mean(name: str) -> float:
            return float(np.mean([a.ratings[name] for a in nodule.annotations]))

        kinds = Counter(a.ratings["calcification"] for a in nodule.annotations)
        kind = max(kinds, key=lambda k: (kinds[k], k))
        return cls(mean("texture"), mean("margin"), mean("spiculation"), kind)


def centre_mm(nodule: Nodule) -> tuple[float, float, float]:
    """Mean outline point in the coordinates of `shapes`."""
    contours = [c for a in nodule.annotations for c in a.contours]
    row, column = np.concatenate([c.points for c in contours]).mean(axis=0)
    z = np.concatenate([[c.z_mm] * len(c.points) for c in contours]).mean()
    half, spacing = (NATIVE_MATRIX - 1) / 2, nodule.pixel_spacing_mm
    return float((column - half) * spacing), float((row - half) * spacing), float(z)


def paint_nodule(hu: Floats, slab: Slab, scan: Scan, nodule: Nodule, rng: np.random.Generator) -> None:
    """Paint one nodule into `hu`, float32 [S, M, M], at native slice positions; denser tissue is kept."""
    composition = Composition.of(nodule)
    corner, consensus = consensus_mask(scan, nodule)
    margin_mm = 0.15 + 0.35 * (5 - composition.margin)
    sigma = margin_mm / scan.pixel_spacing_mm
    soft = ndimage.gaussian_filter(consensus, (0, sigma, sigma))
    spacing = (scan.native_spacing_mm, scan.pixel_spacing_mm, scan.pixel_spacing_mm)
    distance = ndimage.distance_transform_edt(consensus > min(0.5, consensus.max() * 0.9), sampling=spacing)
    depth = (distance / max(float(distance.max()), 1e-3)).astype(np.float32)  # 1 at the deepest voxel
    inner = composition_hu(composition, depth, rng)

    first = int(np.searchsorted(scan.z_mm, nodule.z_range_mm[0] - 1e-6)) - 1  # the mask starts one slice below
    native = np.arange(first, first + len(soft))
    native_of_slice = np.searchsorted(scan.z_mm, slab.z.ravel().astype(np.float64) - 1e-2)
    rows = _average(corner[0], soft.shape[1], *_native_pixels(slab.y, slab, scan))
    columns = _average(corner[1], soft.shape[2], *_native_pixels(slab.x, slab, scan))
    for s in np.flatnonzero(np.isin(native_of_slice, native)):
        layer = int(native_of_slice[s] - first)
        weight = rows[1] @ soft[layer] @ columns[1].T
        weighted_hu = rows[1] @ (soft[layer] * inner[layer]) @ columns[1].T
        part = hu[s, rows[0], columns[0]]
        np.maximum(part, part * (1 - weight) + weighted_hu, out=part)
    _paint_spicules(hu, slab, nodule, composition, rng)


def consensus_mask(scan: Scan, nodule: Nodule) -> tuple[tuple[int, int], Floats]:
    """Agreement of the readers, smoothed along z like the average over a slice.

    Returns the native (row, column) of the corner, and float32 [K, H, W] from one slice below the nodule to one above.
    """
    contours = [c for a in nodule.annotations for c in a.contours]
    points = np.concatenate([c.points for c in contours])
    low = points.min(axis=0) - PAD_PX
    height, width = (points.max(axis=0) + PAD_PX + 1 - low).tolist()
    first, last = (int(np.abs(scan.z_mm - z).argmin()) for z in nodule.z_range_mm)
    mask = np.zeros((last - first + 3, height, width), np.float32)
    for annotation in nodule.annotations:
        slices: dict[int, list[Contour]] = defaultdict(list)
        for contour in annotation.contours:
            slices[int(np.abs(scan.z_mm - contour.z_mm).argmin()) - first + 1].append(contour)
        for k, outlines in slices.items():
            mask[k] += _fill(outlines, low, height, width) / len(nodule.annotations)
    # Full where three of four readers agree; a single reader does not count.
    mask = np.clip(2 * mask - 0.5, 0, 1)
    share = 0.1 * min(2.0, scan.slice_thickness_mm / scan.native_spacing_mm)
    kernel = np.array([share, 1 - 2 * share, share], np.float32)
    return (int(low[0]), int(low[1])), ndimage.convolve1d(mask, kernel, axis=0, mode="constant")


def _fill(outlines: list[Contour], low: np.ndarray, height: int, width: int) -> Floats:
    image = Image.new("1", (width, height))
    draw = ImageDraw.Draw(image)
    # Holes last. LIDC outlines are outside the nodule, so they are not filled themselves unless nothing else is.
    for outline in sorted(outlines, key=lambda c: not c.inclusion):
        corners = [(int(c), int(r)) for r, c in outline.points - low]
        if len(corners) > 3:
            draw.polygon(corners, fill=int(outline.inclusion), outline=0)
    filled = np.asarray(image, np.float32)
    if not filled.any():
        for outline in outlines:
            draw.line([(int(c), int(r)) for r, c in outline.points - low], fill=1)
        filled = np.asarray(image, np.float32)
    return filled


def composition_hu(composition: Composition, depth: Floats, rng: np.random.Generator) -> Floats:
    """HU of the nodule's voxels by depth, float32 like `depth`."""
    rim = np.interp(composition.texture, TEXTURE, RIM_HU)
    core = np.interp(composition.texture, TEXTURE, CORE_HU)
    hu = rim + (core - rim) * np.clip((depth - CORE_FROM) * 6, 0, 1)
    # Clusters of two or three voxels.
    grain = ndimage.gaussian_filter(rng.standard_normal(depth.shape), (0.6, 1.8, 1.8)) * 5
    hu = hu + 14 * grain
    calcium_hu = float(rng.uniform(260, 560))
    if composition.calcification == 1:  # popcorn
        hu = np.where((grain > 0.5) & (depth > 0.2), calcium_hu, hu)
    elif composition.calcification == 2:  # laminated
        hu = np.where((np.floor(depth * 5) % 2 == 1), calcium_hu * 0.8, hu)
    elif composition.calcification == 3:  # solid
        hu = np.where(depth > 0.15, calcium_hu, hu)
    elif composition.calcification == 4:  # eccentric
        spots = np.argwhere((depth > 0.3) & (depth < 0.9))
        spot = spots[rng.integers(len(spots))] if len(spots) else np.argwhere(depth == depth.max())[0]
        away = np.hypot(*(np.indices(depth.shape[1:]) - spot[1:].reshape(2, 1, 1)))
        hu = np.where((away < 3.0) & (depth > 0.1), calcium_hu, hu)
    elif composition.calcification == 5:  # central
        hu = np.where(depth > 0.55, calcium_hu, hu)
    return np.asarray(hu, np.float32)


def _native_pixels(axis_mm: Floats, slab: Slab, scan: Scan) -> tuple[float, float, int]:
    """Start and pixel width of an axis in native pixels, and its number of pixels."""
    begin = (float(axis_mm.ravel()[0]) - slab.pixel_mm / 2) / scan.pixel_spacing_mm + NATIVE_MATRIX / 2
    return begin, slab.pixel_mm / scan.pixel_spacing_mm, axis_mm.size


def _average(start: int, size: int, begin: float, ratio: float, count: int) -> tuple[slice, Floats]:
    """The target pixels, and weights float32 [T, size] that average native pixels from `start` over each of them."""
    low = min(count, max(0, int(np.floor((start - begin) / ratio))))
    high = max(low, min(count, int(np.ceil((start + size - begin) / ratio))))
    target = begin + np.arange(low, high)[:, None] * ratio
    source = start + np.arange(size)[None]
    overlap = np.minimum(target + ratio, source + 1) - np.maximum(target, source)
    return slice(low, high), (np.clip(overlap, 0, None) / ratio).astype(np.float32)


def _paint_spicules(hu: Floats, slab: Slab, nodule: Nodule, composition: Composition, rng: np.random.Generator) -> None:
    strength = (composition.spiculation - 1) / 4
    count = round(4 + 16 * strength)
    direction = rng.standard_normal((count, 3)).astype(np.float32)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    lengths = rng.uniform(0.4, 1.0, (count, 1)).astype(np.float32)
    if strength < 0.2:
        return
    radius = nodule.diameter_mm / 2
    low, high = nodule.z_range_mm
    axes = np.array([radius * 0.8, radius * 0.8, max(1.0, min(radius, (high - low) / 2))], np.float32)
    start = np.array(centre_mm(nodule), np.float32) + direction * axes * 0.8
    end = start + direction * lengths * np.float32((3.0 + 0.9 * radius) * strength + 1.5)
    thick = np.full(count, 0.6 + 0.07 * radius, np.float32)
    spicules = tube_coverage(slab, Tubes(start, end, thick, thick * 0.3))
    value = np.float32(np.interp(composition.texture, TEXTURE, RIM_HU))
    np.maximum(hu, hu + spicules * (value - hu), out=hu)
