"""Group the readers' markings into nodules, and find the slices of a nodule.

The clustering is that of pylidc's `Scan.cluster_annotations()` (single linkage on the smallest distance between outline
points, in voxel indices, with a tolerance that starts at the slice thickness and shrinks until no cluster has more than
four readers), computed with KD-trees instead of full distance matrices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist

from lungtl.sources.lidc_database import Annotation, Scan

MAX_READERS = 4  # four radiologists read every LIDC scan
SHRINK, MIN_TOLERANCE = 0.9, 0.1  # as in pylidc
Z_TOLERANCE_MM = 1e-3  # positions in the database are rounded

MalignancyRule = Literal["mean", "median", "max"]
RULES: dict[MalignancyRule, Callable[[Sequence[int]], float]] = {"mean": fmean, "median": median, "max": max}


@dataclass(frozen=True)
class Nodule:
    """The markings of one physical nodule."""

    number: int  # index in `cluster_annotations()`: 0, 1, ... by ascending z
    annotations: tuple[Annotation, ...]  # one per reader (a few clusters have more than four)
    pixel_spacing_mm: float  # of the scan

    @cached_property
    def z_range_mm(self) -> tuple[float, float]:
        ranges = [annotation.z_range_mm for annotation in self.annotations]
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @cached_property
    def malignancy_ratings(self) -> tuple[int, ...]:
        """One rating per reader, 1 (highly unlikely) to 5 (highly suspicious)."""
        return tuple(annotation.ratings["malignancy"] for annotation in self.annotations)

    @cached_property
    def diameter_mm(self) -> float:
        """Mean over the readers of the largest axial diameter, as in pylidc's `Annotation.diameter`."""
        return float(np.mean([_diameter_mm(a, self.pixel_spacing_mm) for a in self.annotations]))

    def centroid(self, scan_z_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 [3] (row, column, slice index): mean over the readers of their mean outline point, as in pylidc."""
        per_reader = np.array([_voxel_points(a, scan_z_mm).mean(axis=0) for a in self.annotations])
        centroid: NDArray[np.float64] = per_reader.mean(axis=0)
        return centroid

    def malignancy(self, rule: MalignancyRule = "mean") -> float:
        """The readers' ratings combined into one number."""
        return float(RULES[rule](self.malignancy_ratings))

    def is_malignant(self, rule: MalignancyRule = "mean", threshold: float = 3.0) -> bool:
        """True if the combined rating is at least the threshold (source paper: mean >= 3)."""
        return self.malignancy(rule) >= threshold


def cluster_nodules(scan: Scan) -> list[Nodule]:
    """Group a scan's annotations into nodules, exactly as `pylidc.Scan.cluster_annotations()` does."""
    annotations = scan.annotations
    if not annotations:
        return []
    points = [_voxel_points(annotation, scan.z_mm) for annotation in annotations]
    labels = _cluster(points, scan.slice_thickness_mm)
    members: list[list[int]] = [[] for _ in range(labels.max() + 1)]
    for index, label in enumerate(labels):
        members[label].append(index)
    members.sort(key=lambda group: float(np.mean([points[i][:, 2].mean() for i in group])))
    return [
        Nodule(number, tuple(annotations[i] for i in group), scan.pixel_spacing_mm)
        for number, group in enumerate(members)
    ]


def covered_slices(z_mm: NDArray[np.float64], nodule: Nodule, native_spacing_mm: float) -> NDArray[np.bool_]:
    """Bool [S]: slices between the lowest and highest contour of any reader, extended by half the native spacing."""
    low, high = nodule.z_range_mm
    margin = native_spacing_mm / 2 + Z_TOLERANCE_MM
    return (z_mm >= low - margin) & (z_mm <= high + margin)


def _voxel_points(annotation: Annotation, scan_z_mm: NDArray[np.float64]) -> NDArray[np.int64]:
    """Int [N, 3] (row, column, slice index) outline points, as in pylidc's `contours_matrix`."""
    contours = annotation.contours
    slices = [int(np.abs(scan_z_mm - contour.z_mm).argmin()) for contour in contours]
    points = np.concatenate([contour.points for contour in contours])
    return np.column_stack([points, np.repeat(slices, [len(contour.points) for contour in contours])])


def _cluster(points: list[NDArray[np.int64]], tolerance: float) -> NDArray[np.int32]:
    """Cluster label [N] of each annotation."""
    n = len(points)
    trees = [KDTree(p) for p in points]
    distance = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1, n):
            distance[i, j] = distance[j, i] = _smallest_distance(trees[i], trees[j], tolerance)
    while True:
        _, labels = connected_components(distance <= tolerance, directed=False)
        if np.bincount(labels).max() <= MAX_READERS or tolerance * SHRINK < MIN_TOLERANCE:
            return labels
        tolerance *= SHRINK


def _smallest_distance(a: KDTree, b: KDTree, bound: float) -> float:
    """Smallest distance between two point sets; infinite if it exceeds the bound."""
    gap = np.maximum(a.mins - b.maxes, b.mins - a.maxes).max()
    if gap > bound:  # the bounding boxes are too far apart
        return float("inf")
    distances, _ = a.query(b.data, distance_upper_bound=np.nextafter(bound, np.inf))
    return float(np.min(distances))


def _diameter_mm(annotation: Annotation, pixel_spacing_mm: float) -> float:
    """Largest distance between two outline points of one contour; 0 for single points."""
    widths = [pdist(c.points).max() for c in annotation.contours if len(c.points) > 1]
    return float(max(widths, default=0.0)) * pixel_spacing_mm
