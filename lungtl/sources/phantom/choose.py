"""Select the real scans that a phantom is modelled on, and the slices to write.

Half of the scans contain a malignant nodule. Other properties must not separate the classes: negative scans are matched
to positive ones by slice spacing, thickness and pixel spacing, and slices are chosen where nodules usually are.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError
from lungtl.sources.lidc_database import Scan, read_scans
from lungtl.sources.lidc_nodules import Nodule, cluster_nodules
from lungtl.sources.phantom.nodules import centre_mm
from lungtl.sources.phantom.shapes import NATIVE_MATRIX

# Preferred positives: large enough for a small network, and not pure ground glass, which is hidden by noise.
LEAST_DIAMETER_MM, LEAST_TEXTURE = 18.0, 3.0
SPACING_MM = (1.0, 3.0)  # preferred: thinner slices only add files, thicker ones hide the nodules
UNEVEN = 1.5  # scans with a gap longer than this many median spacings are not used
# Mean and standard deviation of the nodules' position in a scan, from 0 (lowest slice) to 1 (highest).
NODULE_LEVEL = (0.55, 0.16)
OFF_CENTRE = 0.25  # largest distance of the nodule from the centre of the field, as a fraction of the field
JITTER_MM = 8.0  # largest distance of the centre of the slices from the centre of the nodule
MATCH_WEIGHTS = (3.0, 1.0, 6.0)  # log spacing, log thickness, pixel spacing in mm


@dataclass(frozen=True)
class PhantomRecipe:
    """The options that define every byte of a phantom."""

    scans: int = 160  # number of series; half of them (rounded down) contain a malignant nodule
    matrix: int = 128  # rows and columns of a slice, 32..512
    field_mm: float | None = 70.0  # width of a field of view around the nodule; None, or with 512: the full field
    z_range_mm: float | None = 24.0  # length of the written part of each scan along z; None writes every native slice
    seed: int = 0  # selects the scans and generates the anatomy


@dataclass(frozen=True)
class ScanPlan:
    """One series to write."""

    scan: Scan  # the real scan with the geometry, identifiers and nodules
    indices: NDArray[np.int64]  # int [S], ascending, the native slices to write
    positive: bool  # True if these slices contain a malignant nodule (mean rating >= 3)
    field_mm: float  # width of the field of view
    centre_mm: tuple[float, float]  # (x, y) of its centre, relative to the scanner's centre
    # (x, y, z) of a point that must be in a lung, so that fields without a nodule show as much lung as others
    lung_mm: tuple[float, float, float] | None

    @property
    def z_mm(self) -> NDArray[np.float64]:
        """float64 [S], ascending, true positions of the written slices."""
        return self.scan.z_mm[self.indices]


@dataclass(frozen=True)
class _Candidate:
    scan: Scan
    target: Nodule | None  # the nodule at the centre of the slices
    positive: bool
    preferred: bool

    @property
    def geometry(self) -> NDArray[np.float64]:
        s = self.scan
        return np.array([np.log(s.native_spacing_mm), np.log(s.slice_thickness_mm), s.pixel_spacing_mm])


def generator(recipe: PhantomRecipe, *names: str) -> np.random.Generator:
    """A random stream that depends only on the seed and the names, not on earlier draws."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng([recipe.seed, int.from_bytes(digest[:8], "big")])


def choose_scans(recipe: PhantomRecipe) -> list[ScanPlan]:
    """Select alternating positive and negative scans, each of a different patient (about four seconds)."""
    rng = generator(recipe, "choose")
    positives, negatives = _candidates(recipe)
    n_positive = recipe.scans // 2
    n_negative = recipe.scans - n_positive
    if n_positive > len(positives) or n_negative > len(negatives):
        raise LungtlError(
            f"dataset.scans={recipe.scans}, expected at most {2 * min(len(positives), len(negatives))} "
            f"({len(positives)} positive and {len(negatives)} negative patients are suitable); lower dataset.scans"
        )
    order = sorted(rng.permutation(len(positives)), key=lambda i: not positives[i].preferred)
    selected = [positives[i] for i in order[:n_positive]]
    matched = _match(selected, negatives, n_negative, rng)
    plans = [_plan(candidate, candidate, recipe) for candidate in selected]
    plans += [_plan(candidate, selected[i % n_positive], recipe) for i, candidate in enumerate(matched)]
    ordered = sorted(range(len(plans)), key=lambda i: (i if i < n_positive else i - n_positive, i))
    return [plans[i] for i in ordered]


def _candidates(recipe: PhantomRecipe) -> tuple[list[_Candidate], list[_Candidate]]:
    positives: list[_Candidate] = []
    negatives: list[_Candidate] = []
    for scan, nodules in _scans_with_nodules():
        preferred = SPACING_MM[0] <= scan.native_spacing_mm <= SPACING_MM[1]
        malignant = [nodule for nodule in nodules if nodule.is_malignant()]
        if not malignant:
            negatives.append(_Candidate(scan, _largest(nodules), False, preferred))
        elif short_enough := [n for n in malignant if _length_mm(n, scan) <= (recipe.z_range_mm or np.inf)]:
            target = _largest(short_enough)
            assert target is not None
            texture = float(np.mean([annotation.ratings["texture"] for annotation in target.annotations]))
            visible = target.diameter_mm >= LEAST_DIAMETER_MM and texture >= LEAST_TEXTURE
            positives.append(_Candidate(scan, target, True, preferred and visible))
    return positives, negatives


@lru_cache(maxsize=1)  # takes seconds and never changes
def _scans_with_nodules() -> tuple[tuple[Scan, list[Nodule]], ...]:
    """Evenly spaced scans of patients with a single scan."""
    scans = read_scans()
    series_of = Counter(scan.patient_id for scan in scans)
    return tuple(
        (scan, cluster_nodules(scan))
        for scan in scans
        if series_of[scan.patient_id] == 1 and np.diff(scan.z_mm).max() <= UNEVEN * scan.native_spacing_mm
    )


def _largest(nodules: Sequence[Nodule]) -> Nodule | None:
    return max(nodules, key=lambda nodule: nodule.diameter_mm, default=None)


def _length_mm(nodule: Nodule, scan: Scan) -> float:
    """Extent of the nodule along z, including half a slice at each end."""
    low, high = nodule.z_range_mm
    return high - low + scan.native_spacing_mm


def _match(
    positives: Sequence[_Candidate], candidates: Sequence[_Candidate], n: int, rng: np.random.Generator
) -> list[_Candidate]:
    """Greedily match each positive with the unused negative of the most similar geometry."""
    free = [candidates[i] for i in rng.permutation(len(candidates))]
    matched: list[_Candidate] = []
    for index in range(n):
        geometry = positives[index % len(positives)].geometry
        costs = [float(np.abs(c.geometry - geometry) @ np.array(MATCH_WEIGHTS)) for c in free]
        matched.append(free.pop(int(np.argmin(costs))))
    return matched


def _plan(candidate: _Candidate, partner: _Candidate, recipe: PhantomRecipe) -> ScanPlan:
    """The slices and the field of a scan; `partner` is the positive it was matched with."""
    indices = _slices(candidate, recipe)
    whole = NATIVE_MATRIX * candidate.scan.pixel_spacing_mm
    if recipe.field_mm is None or recipe.matrix == NATIVE_MATRIX or recipe.field_mm >= whole:
        return ScanPlan(candidate.scan, indices, candidate.positive, whole, (0.0, 0.0), None)
    target = candidate.target or partner.target
    assert target is not None  # positives have one
    rng = generator(recipe, "field", candidate.scan.series_uid)
    room = max(0.0, min(OFF_CENTRE * recipe.field_mm, (recipe.field_mm - target.diameter_mm) / 2 - 5))
    limit = (whole - recipe.field_mm) / 2
    x, y, _ = centre_mm(target)
    shift = rng.uniform(-room, room, 2)
    centre = np.clip([x + shift[0], y + shift[1]], -limit, limit)
    lung = None if candidate.target else (x, y, float(candidate.scan.z_mm[indices].mean()))
    field = (float(centre[0]), float(centre[1]))
    return ScanPlan(candidate.scan, indices, candidate.positive, recipe.field_mm, field, lung)


def _slices(candidate: _Candidate, recipe: PhantomRecipe) -> NDArray[np.int64]:
    scan = candidate.scan
    z = scan.z_mm
    if recipe.z_range_mm is None:
        return np.arange(len(z))
    rng = generator(recipe, "window", scan.series_uid)
    length = recipe.z_range_mm
    if candidate.target is None:
        level = np.clip(rng.normal(*NODULE_LEVEL), 0.25, 0.85)
        centre = z[0] + level * (z[-1] - z[0])
    else:
        slack = max(0.0, (length - _length_mm(candidate.target, scan)) / 2)
        jitter = min(JITTER_MM, slack)
        centre = float(np.mean(candidate.target.z_range_mm)) + rng.uniform(-jitter, jitter)
    low = np.clip(centre - length / 2, z[0], max(z[0], z[-1] - length))
    inside = np.flatnonzero((z >= low - 1e-6) & (z <= low + length + 1e-6))
    if len(inside) == 0:  # a range shorter than the spacing
        inside = np.array([int(np.abs(z - centre).argmin())])
    return inside
