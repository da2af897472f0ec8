"""LIDC-IDRI-slices: tiny PNGs in the set's layout under real patients' names."""

from __future__ import annotations

import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.sources import lidc_slices
from lungtl.sources.density import central_density
from lungtl.sources.lidc_database import database_path
from lungtl.sources.lidc_slices import LidcSlicesSource
from tests.sources.kaggle import bags, four_nodules, refusals, two_patients, write

# Readers' malignancy ratings of the nodules used here, from LIDC-IDRI itself:
# 0003: 1 = 5 5 3 4; 0012: 1 = 2 3 3 2; 0063: 0..3 = 1 | 4 3 3 | 5 4 | 3 3 3 2. 0132 has two scans.
ALL: dict[str, Any] = {"min_readers": 1, "indeterminate": "keep"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return two_patients(tmp_path)


@pytest.fixture
def patient_0063(tmp_path: Path) -> Path:
    return four_nodules(tmp_path)


# Nodule bags


def test_nodules_become_bags_with_the_readers_labels(root: Path) -> None:
    found = bags(LidcSlicesSource(str(root)))
    malignant, benign = found["LIDC-IDRI-0003_nodule-1"], found["LIDC-IDRI-0012_nodule-1"]
    assert list(found) == [malignant.bag_id, benign.bag_id]
    assert (malignant.patient_id, malignant.bag_label, set(malignant.slice_labels)) == (
        "LIDC-IDRI-0003",
        1,
        {2},
    )
    assert (benign.patient_id, benign.bag_label, set(benign.slice_labels)) == ("LIDC-IDRI-0012", 0, {1})
    assert malignant.pixel_spacing_mm == pytest.approx((0.820312, 0.820312))
    assert np.isnan(malignant.z_mm).all()
    density = central_density(benign.voxels, benign.pixel_spacing_mm, benign.diameter_mm)
    ratings = {name: value for name, value in benign.details.items() if name.startswith("rating_")}
    assert benign.details == {"n_readers": 4, "native_spacing_mm": 2.5, "density": density, **ratings}
    assert (len(ratings), ratings["rating_calcification"]) == (8, 6)  # four times absent


def test_slices_are_ordered_by_number_not_by_name(root: Path) -> None:
    bag = bags(LidcSlicesSource(str(root)))["LIDC-IDRI-0003_nodule-1"]
    assert bag.voxels[:, 0, 0].tolist() == [0, 1, 2, 9, 10]
    assert bag.voxels.dtype == np.int16


def test_grey_values_are_0_to_255_not_hu(root: Path) -> None:
    write(root / "LIDC-IDRI-0012" / "nodule-1", 2, grey=253)
    source = LidcSlicesSource(str(root))
    assert source.value_range == (0, 255)
    assert bags(source)["LIDC-IDRI-0012_nodule-1"].voxels.max() == 255


def test_the_row_of_a_nodule_explains_its_label(patient_0063: Path) -> None:
    bag = bags(LidcSlicesSource(str(patient_0063), **ALL))["LIDC-IDRI-0063_nodule-1"]
    (row,) = bag.nodules
    assert {key: row[key] for key in row if key not in ("malignancy", "diameter_mm") and "rating_" not in key} == {
        "nodule": 1, "n_readers": 3, "malignancy_median": 3.0, "ratings": "4 3 3", "z_min": -205.5,
        "z_max": -198.0, "malignant": True, "label": 2,
    }  # fmt: skip
    assert row["malignancy"] == pytest.approx(10 / 3)
    assert row["diameter_mm"] == bag.diameter_mm > 0


# Nodules that count


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        (ALL, {0: 0, 1: 1, 2: 1, 3: 1}),  # medians 1, 3, 4.5, 3
        ({"min_readers": 1}, {0: 0, 2: 1}),  # 1 and 3 are exactly 3
        ({"min_readers": 2}, {2: 1}),
        ({"min_readers": 3, "indeterminate": "keep"}, {1: 1, 3: 1}),
        ({"min_readers": 1, "rule": "mean"}, {0: 0, 1: 1, 2: 1, 3: 0}),  # 1, 10/3, 4.5, 2.75
        ({"min_readers": 1, "rule": "max"}, {0: 0, 1: 1, 2: 1}),  # 1, 4, 5, 3
        ({**ALL, "threshold": 3.5}, {0: 0, 1: 0, 2: 1, 3: 0}),
    ],
)
def test_options_choose_and_label_nodules(patient_0063: Path, options: dict[str, Any], labels: dict[int, int]) -> None:
    source = LidcSlicesSource(str(patient_0063), **options)
    assert {bag.nodules[0]["nodule"]: bag.bag_label for bag in bags(source).values()} == labels
    assert refusals(source) == {}  # leaving out by choice is no refusal


# Patient bags


def test_a_patients_bag_joins_its_nodules_in_order(patient_0063: Path) -> None:
    found = bags(LidcSlicesSource(str(patient_0063), bag="patient", **ALL))
    bag = found["LIDC-IDRI-0063"]
    assert bag.voxels[:, 0, 0].tolist() == [0, 10, 20, 21, 30]
    assert bag.slice_labels.tolist() == [1, 2, 2, 2, 2]
    assert bag.bag_label == 1
    assert [row["nodule"] for row in bag.nodules] == [0, 1, 2, 3]
    assert bag.diameter_mm == max(row["diameter_mm"] for row in bag.nodules)
    assert bag.details["n_nodules"] == 4
    assert bag.details["density"] == 30  # of its densest nodule


def test_a_patient_with_only_benign_nodules_is_0(root: Path) -> None:
    found = bags(LidcSlicesSource(str(root), bag="patient"))
    assert {bag_id: bag.bag_label for bag_id, bag in found.items()} == {
        "LIDC-IDRI-0003": 1,
        "LIDC-IDRI-0012": 0,
    }


def test_a_patient_with_an_unusable_nodule_is_refused_whole(root: Path) -> None:
    (root / "LIDC-IDRI-0003" / "nodule-77").mkdir()
    source = LidcSlicesSource(str(root), bag="patient")
    assert list(bags(source)) == ["LIDC-IDRI-0012"]
    assert "LIDC-IDRI-0003/nodule-77" in refusals(source)["LIDC-IDRI-0003"]


# The contract


def test_a_changed_pixel_changes_one_items_fingerprint(root: Path) -> None:
    source = LidcSlicesSource(str(root))
    before, listed = source.inventory(), source.listing()
    write(root / "LIDC-IDRI-0012" / "nodule-1", 1, grey=7)
    after = source.inventory()
    same = [a.fingerprint == b.fingerprint for a, b in zip(before.items, after.items, strict=True)]
    assert same == [True, False]
    assert source.listing() != listed


def test_loading_needs_no_database_even_in_another_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = LidcSlicesSource(str(root))
    sent = pickle.dumps((source, source.inventory().items[0]))
    monkeypatch.setattr(lidc_slices, "read_scans", None)
    monkeypatch.setattr(lidc_slices, "series_uids", None)
    received, item = pickle.loads(sent)  # noqa: S301
    assert received.load(item).bag_label == 1


def test_the_recipe_has_no_folder() -> None:
    assert LidcSlicesSource("somewhere").recipe() == {
        "kind": "lidc_slices", "density": 98.0, "bag": "nodule", "min_readers": 3, "indeterminate": "exclude",
        "rule": "median", "threshold": 3.0, "uncounted": "drop",
    }  # fmt: skip


# Nodules that do not count


def test_uncounted_nodules_train_without_a_label(patient_0063: Path) -> None:
    found = bags(LidcSlicesSource(str(patient_0063), uncounted="train"))
    labels = {bag_id[-1]: (bag.bag_label, set(bag.slice_labels)) for bag_id, bag in found.items()}
    # one reader; median exactly 3; two readers; median exactly 3
    assert labels == dict.fromkeys("0123", (-1, {-1}))
    # 1 | 4 3 3 | 5 4 | 3 3 3 2
    assert [bag.votes for bag in found.values()] == pytest.approx([0, 2 / 3, 1, 3 / 8])
    assert [bag.votes for bag in bags(LidcSlicesSource(str(patient_0063), **ALL)).values()] == pytest.approx(
        [0, 2 / 3, 1, 3 / 8]
    )


def test_a_patient_without_a_counted_nodule_is_a_bag_without_a_label(patient_0063: Path) -> None:
    (bag,) = bags(LidcSlicesSource(str(patient_0063), "patient", uncounted="train")).values()
    assert (bag.bag_label, len(bag.voxels), bag.votes) == (-1, 5, 1)
    (counted,) = bags(LidcSlicesSource(str(patient_0063), "patient", min_readers=4, indeterminate="keep",
                                       uncounted="train")).values()  # fmt: skip
    assert (counted.bag_label, len(counted.voxels), counted.votes) == (1, 1, 3 / 8)


def test_the_other_ratings_are_means_over_the_readers(patient_0063: Path) -> None:
    found = bags(LidcSlicesSource(str(patient_0063), **ALL))
    with closing(sqlite3.connect(f"{database_path().as_uri()}?mode=ro", uri=True)) as db:
        query = """SELECT a.calcification, a.texture, a.malignancy FROM annotations a JOIN scans s ON s.id = a.scan_id
                   WHERE s.patient_id = 'LIDC-IDRI-0063'"""
        read = db.execute(query).fetchall()
    readers = [bag.details["n_readers"] for bag in found.values()]
    assert len(read) == sum(readers)
    for column, name in enumerate(("calcification", "texture")):
        means = [bag.details[f"rating_{name}"] for bag in found.values()]
        assert np.dot(means, readers) == pytest.approx(sum(row[column] for row in read))
    (patient,) = bags(LidcSlicesSource(str(patient_0063), "patient", **ALL)).values()
    largest = max(found.values(), key=lambda bag: bag.diameter_mm)
    assert patient.details["rating_spiculation"] == largest.details["rating_spiculation"]
    assert "rating_malignancy" not in patient.details
