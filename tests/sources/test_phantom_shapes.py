"""Tubes, area averages and outlines against areas and volumes computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lungtl.sources import lidc_database
from lungtl.sources.lidc_database import Annotation, Contour, Scan
from lungtl.sources.lidc_nodules import cluster_nodules
from lungtl.sources.phantom.nodules import Composition, _average, composition_hu, consensus_mask
from lungtl.sources.phantom.shapes import ellipse, make_slab, polyline, tube_coverage

GRID = make_slab(64, 1.0, np.arange(20.0), 1.0)
RATINGS = dict.fromkeys(lidc_database.RATINGS, 3) | {"spiculation": 1, "calcification": 6}


@pytest.mark.parametrize("end", [(12.0, 0.0, 10.0), (0.0, 12.0, 10.0), (8.0, 8.0, 10.0)])
@pytest.mark.parametrize("radius", [1.5, 3.0])
def test_a_tube_fills_its_volume(end: tuple[float, float, float], radius: float) -> None:
    start = (-end[0], -end[1], 10.0)
    length = 2 * float(np.hypot(end[0], end[1]))
    volume = np.pi * radius**2 * length + 4 / 3 * np.pi * radius**3  # the ends are round
    found = float(tube_coverage(GRID, polyline([start, end], [radius, radius])).sum())
    # Blurring a round edge adds edge^2 / 12 to the squared radius: 7 % at 1.5 mm.
    assert found == pytest.approx(volume, rel=0.12)


def test_a_thin_tube_in_the_slice_covers_its_width_times_its_length() -> None:
    grid = make_slab(64, 1.0, np.array([0.0]), 0.01)
    sums = [
        float(tube_coverage(grid, polyline([(-20, y, 0), (20, y, 0)], [0.2, 0.2])).sum())
        for y in np.linspace(0, 1, 11)[:-1]  # at any position relative to the pixels
    ]
    assert np.mean(sums) == pytest.approx(0.4 * 40, rel=0.05)


def test_the_distance_to_a_circle_is_euclidean() -> None:
    found = ellipse(GRID.x, GRID.y, 10.0, 10.0)
    np.testing.assert_allclose(found, np.hypot(GRID.x, GRID.y) - 10, atol=0.02)


def test_area_averages_keep_the_sum_and_the_place() -> None:
    target, weights = _average(start=100, size=6, begin=0, ratio=4, count=128)
    assert target == slice(25, 27)
    np.testing.assert_allclose(weights, [[0.25, 0.25, 0.25, 0.25, 0, 0], [0, 0, 0, 0, 0.25, 0.25]])
    _, odd = _average(start=100, size=6, begin=0, ratio=5.12, count=100)  # 5.12 native pixels each
    np.testing.assert_allclose(odd.sum(axis=0), 1 / 5.12, rtol=1e-6)
    moved, weights_of_part = _average(start=100, size=6, begin=90, ratio=4, count=8)  # a field that begins at 90
    assert moved == slice(2, 4)
    np.testing.assert_allclose(weights_of_part[:, 0], [0.25, 0])
    outside, _ = _average(start=100, size=6, begin=200, ratio=4, count=8)
    assert outside == slice(0, 0)


def test_readers_who_disagree_give_half_coverage() -> None:
    def square(low: int, high: int, key: int) -> Annotation:
        corners = np.array([[low, low], [low, high], [high, high], [high, low]])
        return Annotation(key, RATINGS, tuple(Contour(z, corners, True) for z in (2.0, 3.0, 4.0)))

    scan = Scan(
        1,
        "1.2.3",
        "1.2",
        "LIDC-IDRI-9999",
        0.01,
        1.0,
        np.arange(8.0),
        (square(200, 210, 1), square(200, 205, 2)),
    )
    nodules = cluster_nodules(Scan(1, "1.2.3", "1.2", "LIDC-IDRI-9999", 3.0, 1.0, np.arange(8.0), scan.annotations))
    corner, mask = consensus_mask(scan, nodules[0])
    middle = mask[2]
    assert corner == (192, 192)
    # Outlines run outside the nodule: 200..210 encloses the pixels 201..209.
    assert middle[201 - 192, 201 - 192] == pytest.approx(1, abs=0.01)
    assert middle[208 - 192, 208 - 192] == pytest.approx(0.5, abs=0.01)
    assert float(middle.sum()) == pytest.approx((81 + 16) / 2, rel=0.01)
    np.testing.assert_array_equal(mask[0] > 0.02, np.zeros_like(middle, bool))


@pytest.mark.parametrize(("texture", "low", "high"), [(1.0, -600, -450), (5.0, 0, 60)], ids=["ground glass", "solid"])
def test_texture_sets_the_density(texture: float, low: float, high: float) -> None:
    depth = np.linspace(0, 1, 16 * 16, dtype=np.float32).reshape(1, 16, 16)
    hu = composition_hu(Composition(texture, 5, 1, 6), depth, np.random.default_rng(0))
    assert low <= float(np.median(hu)) <= high


def test_part_solid_nodules_have_a_solid_core() -> None:
    depth = np.array([[[0.1, 0.2], [0.9, 1.0]]], np.float32)
    rim, core = composition_hu(Composition(3, 5, 1, 6), depth, np.random.default_rng(0))[0]
    assert rim.max() < -200 < -50 < core.min()


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5])
def test_calcified_nodules_contain_calcium(kind: int) -> None:
    grid = make_slab(40, 1.0, np.array([0.0]), 1.0)
    depth = np.clip(1 - np.hypot(grid.x, grid.y) / 15, 0, 1).astype(np.float32)
    hu = composition_hu(Composition(5, 5, 1, kind), depth, np.random.default_rng(1))
    assert 200 <= float(hu.max()) <= 700
