"""Labels by hand on small scans, and against LIDC-IDRI's known totals."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtl.sources.base import BENIGN, MALIGNANT, NON_NODULE, UNKNOWN
from lungtl.sources.lidc import LidcSource
from lungtl.sources.lidc_labels import LabelDefinition, describe_labels
from lungtl.sources.lidc_nodules import MalignancyRule, Nodule, covered_slices
from lungtl.sources.phantom.source import PhantomSource
from tests.real_data import lidc_nodules, lidc_scans
from tests.sources.test_lidc_nodules import nodule

PAPER = LabelDefinition()
EXCLUDE = LabelDefinition(indeterminate="exclude")
TWO_READERS = LabelDefinition(min_readers=2)

ratings = st.lists(st.integers(1, 5), min_size=1, max_size=5)
definitions = st.builds(
    LabelDefinition,
    st.sampled_from(["mean", "median", "max"]),
    st.sampled_from([2.0, 2.5, 3.0, 4.0]),
    st.sampled_from(["keep", "exclude"]),
    st.integers(1, 4),
)
of_a_scan = st.lists(st.tuples(ratings, st.integers(0, 9)), max_size=4).map(
    lambda found: [nodule(*each, zs=(float(z),)) for each, z in found]
)


# Nodules


def test_by_default_every_nodule_counts_and_3_is_malignant() -> None:
    assert [PAPER.nodule_label(nodule(*r)) for r in [(3, 3), (1, 5), (3, 3, 2), (5,), (1,)]] == [2, 2, 1, 2, 1]


@pytest.mark.parametrize(
    ("definition", "seen", "why"),
    [
        (EXCLUDE, (3, 3), "rated exactly 3"),
        (EXCLUDE, (1, 5), "rated exactly 3"),
        (EXCLUDE, (3, 3, 3, 4), ""),
        (EXCLUDE, (2,), ""),
        (LabelDefinition(threshold=3.5, indeterminate="exclude"), (3, 4), "rated exactly 3.5"),
        (LabelDefinition(threshold=3.5, indeterminate="exclude"), (3, 3), ""),
        (LabelDefinition("median", indeterminate="exclude"), (1, 3, 5, 3), "rated exactly 3"),
        (LabelDefinition("max", indeterminate="exclude"), (1, 3), "rated exactly 3"),
        (TWO_READERS, (5,), "readers: 1 of 2 required"),
        (TWO_READERS, (5, 5), ""),
        (LabelDefinition(min_readers=4), (5, 5, 5, 5, 5), ""),  # a cluster with a fifth marking
    ],
)
def test_excluded_nodules_and_reasons(definition: LabelDefinition, seen: tuple[int, ...], why: str) -> None:
    assert definition.exclusion(nodule(*seen)) == why
    assert (definition.nodule_label(nodule(*seen)) == UNKNOWN) == bool(why)


# Scans


@pytest.mark.parametrize(
    ("definition", "nodules", "label"),
    [
        (PAPER, [], 0),
        (PAPER, [nodule(2), nodule(1, 1)], 0),
        (PAPER, [nodule(2), nodule(3)], 1),
        (TWO_READERS, [nodule(5)], UNKNOWN),
        (TWO_READERS, [nodule(2)], 0),  # even with more readers, this one saw nothing malignant
        (TWO_READERS, [nodule(5), nodule(1, 1)], UNKNOWN),
        (TWO_READERS, [nodule(5), nodule(4, 4)], 1),
        (EXCLUDE, [nodule(3)], UNKNOWN),
        (EXCLUDE, [nodule(3), nodule(1)], UNKNOWN),
        (EXCLUDE, [nodule(3), nodule(4)], 1),
    ],
)
def test_scan_label(definition: LabelDefinition, nodules: list[Nodule], label: int) -> None:
    assert definition.scan_label(nodules) == label
    assert definition.scan_label(nodules[::-1]) == label


# Slices


def test_labels_of_a_small_scan_by_hand() -> None:
    # On a 1 mm grid, native spacing 2: benign covers 1..5, malignant 4..8 (1 mm wider at both ends).
    benign, malignant = nodule(1, 2, zs=(2.0, 4.0)), nodule(5, zs=(5.0, 7.0))
    labels = PAPER.slice_labels(np.arange(10.0), [benign, malignant], native_spacing_mm=2.0)
    assert labels.tolist() == [0, 1, 1, 1, 2, 2, 2, 2, 2, 0]
    assert labels.dtype == np.int8


def test_slices_of_an_excluded_nodule_are_unknown_unless_another_counts() -> None:
    # Native spacing 2: one reader's nodules cover 1..5 and 8..10, the benign one 4..6, the malignant one 10..12.
    alone = [nodule(5, zs=(2.0, 4.0)), nodule(1, zs=(9.0,))]
    shared = [nodule(1, 1, zs=(5.0,)), nodule(4, 5, zs=(11.0,))]
    labels = TWO_READERS.slice_labels(np.arange(14.0), [*alone, *shared], native_spacing_mm=2.0)
    assert labels.tolist() == [0, -1, -1, -1, 1, 1, 1, 0, -1, -1, 2, 2, 2, 0]


def test_rule_and_threshold_reach_the_slices() -> None:
    undecided = [nodule(2, 2, 5)]
    z = np.zeros(1)
    assert LabelDefinition("mean").slice_labels(z, undecided, 1.0).tolist() == [MALIGNANT]
    assert LabelDefinition("median").slice_labels(z, undecided, 1.0).tolist() == [BENIGN]
    assert LabelDefinition("mean", 3.1).slice_labels(z, undecided, 1.0).tolist() == [BENIGN]


def test_a_scan_without_nodules_has_none_on_any_slice() -> None:
    assert PAPER.slice_labels(np.arange(3.0), [], 1.0).tolist() == [NON_NODULE] * 3


@given(of_a_scan, definitions, st.randoms())
def test_slices_follow_from_the_nodules_that_cut_them_in_any_order(
    nodules: list[Nodule], definition: LabelDefinition, random: Any
) -> None:
    z = np.arange(10.0)
    expected = []
    for k in range(10):
        cut = {definition.nodule_label(n) for n in nodules if covered_slices(z, n, 1.0)[k]}
        expected.append(next((label for label in (MALIGNANT, BENIGN, UNKNOWN) if label in cut), NON_NODULE))
    random.shuffle(nodules)
    assert definition.slice_labels(z, nodules, 1.0).tolist() == expected


@given(of_a_scan, definitions)
def test_a_known_scan_keeps_its_label_when_nodules_are_no_longer_excluded(
    nodules: list[Nodule], definition: LabelDefinition
) -> None:
    everything = LabelDefinition(definition.rule, definition.threshold)
    assert definition.scan_label(nodules) in (UNKNOWN, everything.scan_label(nodules))


# In words


def test_a_definition_in_words() -> None:
    for definition, facts in (
        (PAPER, ["mean", "at least 1 reader is", "3 or more", "rated exactly 3: malignant"]),
        (LabelDefinition("median", 3.5, "exclude", 2), ["median", "at least 2", "3.5", "rated exactly 3.5: excluded"]),
    ):
        assert all(fact in definition.describe() for fact in facts)


def test_the_definition_is_read_from_the_recipe() -> None:
    source = LidcSource(rule="median", indeterminate="exclude")
    assert describe_labels(source.recipe()) == source.labels.describe()
    assert describe_labels(PhantomSource("folder").recipe()) == PAPER.describe()
    assert describe_labels({"kind": "dicom", "max_gap_mm": 10.0}) == "as provided with the dataset"


# The whole of LIDC-IDRI


@pytest.fixture(scope="module")
def single_ratings() -> pd.DataFrame:
    """One row an annotation: scan, nodule, rating. Rules are applied to it without `LabelDefinition`."""
    return pd.DataFrame(
        [
            (scan.scan_id, nodule.number, annotation.ratings["malignancy"])
            for scan, nodules in zip(lidc_scans(), lidc_nodules(), strict=True)
            for nodule in nodules
            for annotation in nodule.annotations
        ],
        columns=["scan", "nodule", "rating"],
    )


@pytest.mark.parametrize(
    ("rule", "above", "exactly", "below", "scans"),
    [("mean", 645, 641, 1365, 665), ("median", 545, 956, 1150, 711), ("max", 900, 1096, 655, 812)],
)
def test_all_nodules_and_scans_under_each_rule(
    single_ratings: pd.DataFrame, rule: MalignancyRule, above: int, exactly: int, below: int, scans: int
) -> None:
    number = single_ratings.groupby(["scan", "nodule"])["rating"].agg(rule)
    malignant = number[number >= 3].reset_index()
    assert [(number > 3).sum(), (number == 3).sum(), (number < 3).sum()] == [above, exactly, below]
    assert malignant["scan"].nunique() == scans

    keep, exclude = LabelDefinition(rule), LabelDefinition(rule, indeterminate="exclude")
    nodules = [each for of_scan in lidc_nodules() for each in of_scan]
    assert Counter(map(keep.nodule_label, nodules)) == {MALIGNANT: above + exactly, BENIGN: below}
    assert Counter(map(exclude.nodule_label, nodules)) == {MALIGNANT: above, UNKNOWN: exactly, BENIGN: below}
    assert Counter(map(keep.scan_label, lidc_nodules())) == {1: scans, 0: 1018 - scans}


@pytest.mark.parametrize("expected", [2, 3, 4])
def test_all_nodules_that_too_few_readers_marked(single_ratings: pd.DataFrame, expected: int) -> None:
    readers = single_ratings.groupby(["scan", "nodule"]).size()
    definition = LabelDefinition(min_readers=expected)
    excluded = sum(bool(definition.exclusion(each)) for of_scan in lidc_nodules() for each in of_scan)
    assert excluded == (readers < expected).sum() == {2: 771, 3: 1259, 4: 1740}[expected]


def test_shares_of_native_slices() -> None:
    labels = np.concatenate(
        [
            PAPER.slice_labels(scan.z_mm, nodules, scan.native_spacing_mm)
            for scan, nodules in zip(lidc_scans(), lidc_nodules(), strict=True)
        ]
    )
    assert len(labels) == 243945
    assert (labels == MALIGNANT).mean() == pytest.approx(0.0361, abs=6e-5)
    assert (labels == BENIGN).mean() == pytest.approx(0.0238, abs=6e-5)


# of LIDC-IDRI-0063's nodules: their z ranges, with the mean ratings 1, 10/3, 4.5 and 2.75 of 1, 3, 2 and 4 readers
RANGES_0063 = [(-220.5, -218.0), (-205.5, -198.0), (-148.0, -135.5), (-105.5, -100.5)]


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        (PAPER, [BENIGN, MALIGNANT, MALIGNANT, BENIGN]),
        (TWO_READERS, [UNKNOWN, MALIGNANT, MALIGNANT, BENIGN]),
        (LabelDefinition(min_readers=3), [UNKNOWN, MALIGNANT, UNKNOWN, BENIGN]),
        (LabelDefinition("median", indeterminate="exclude"), [BENIGN, UNKNOWN, MALIGNANT, UNKNOWN]),
    ],
)
def test_slices_of_lidc_0063(definition: LabelDefinition, expected: list[int]) -> None:
    index = next(i for i, scan in enumerate(lidc_scans()) if scan.patient_id == "LIDC-IDRI-0063")
    scan = lidc_scans()[index]
    slices = np.full(133, NON_NODULE)
    for (low, high), label in zip(RANGES_0063, expected, strict=True):
        slices[(scan.z_mm >= low) & (scan.z_mm <= high)] = label
    labels = definition.slice_labels(scan.z_mm, lidc_nodules()[index], scan.native_spacing_mm)
    assert labels.tolist() == slices.tolist()
