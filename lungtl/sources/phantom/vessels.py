"""Branching trees that fill a lung: arteries and veins.

Each tree connects random points of the lung with its root, a compromise between total length and detours (as for
dendrites in Cuntz et al., PLoS Comput Biol 2010); the radii follow Murray's law. In a slice, the branches make nodule
detection hard: they are dots of the same size and brightness.
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from scipy.spatial.distance import cdist

from lungtl.sources.phantom.anatomy import Patient, hilum, lungs
from lungtl.sources.phantom.shapes import Floats, Tubes

ENDS = 600  # points connected by a tree
LEAF_RADIUS_MM = (0.32, 0.58)
MURRAY = 2.65  # 3 for ideal flow; lower in measured pulmonary trees
DIRECTNESS = 0.55  # 0: shortest total length, 1: each point is connected directly
GAP_MM = 4.0  # no visible vessels directly below the pleura
BEND = 0.12  # displacement of a branch's middle, relative to its length


def lung_vessels(patient: Patient, rng: np.random.Generator) -> Tubes:
    """Arteries and veins of both lungs."""
    trees = []
    for side in (-1, 1):
        x, y, z = hilum(patient, side)
        trees.append(_tree(patient, np.array([x, y, z], np.float32), side, rng))
        k = patient.scale
        trees.append(_tree(patient, np.array([x - side * 4 * k, y - 12 * k, z - 24], np.float32), side, rng))
    names = [field.name for field in fields(Tubes)]
    return Tubes(*(np.concatenate([getattr(tree, name) for tree in trees]) for name in names))


def _tree(patient: Patient, root: Floats, side: int, rng: np.random.Generator) -> Tubes:
    points = np.concatenate([root[None], _points(patient, side, rng)])
    to_root = np.linalg.norm(points - root, axis=1)
    order = np.argsort(to_root, kind="stable")
    points, to_root = points[order], to_root[order]

    cost = cdist(points, points) + DIRECTNESS * to_root[None]
    cost[np.triu_indices(len(points))] = np.inf  # parents are closer to the root
    parent = cost[1:].argmin(axis=1)

    flow = rng.uniform(*LEAF_RADIUS_MM, len(points)) ** MURRAY
    for child in range(len(points) - 1, 0, -1):
        flow[parent[child - 1]] += flow[child]
    radius = (flow ** (1 / MURRAY)).astype(np.float32)

    start, end = points[parent], points[1:]
    length = np.linalg.norm(end - start, axis=1, keepdims=True)
    middle = (start + end) / 2 + (rng.normal(0, BEND, start.shape) * length).astype(np.float32)
    # A branch starts with its own radius, not with that of its parent.
    width = radius[1:]
    return Tubes(
        np.concatenate([start, middle]),
        np.concatenate([middle, end]),
        np.concatenate([width, width]),
        np.concatenate([width, width * 0.9]),
    )


def _points(patient: Patient, side: int, rng: np.random.Generator) -> Floats:
    """float32 [n, 3] random points of one lung."""
    n = 3 * ENDS
    x = patient.x + side * rng.uniform(0.05, 1.05, n) * patient.half_width
    y = patient.y + rng.uniform(-1, 1, n) * patient.half_depth
    z = rng.uniform(patient.z_base - 10, patient.z_apex, n)
    points = np.stack([x, y, z], axis=1).astype(np.float32)
    x_, y_, z_ = (points[:, axis].reshape(-1, 1, 1) for axis in range(3))
    inside = lungs(patient, x_, y_, z_).ravel() < -GAP_MM
    return points[inside][:ENDS]
