"""Which scans and slices a phantom takes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.stats import rankdata

from lungtl.settings import parts
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sources.lidc_database import read_scans
from lungtl.sources.lidc_nodules import cluster_nodules, covered_slices
from lungtl.sources.phantom import PhantomRecipe, ScanPlan, choose_scans

PLANS: list[ScanPlan] = []


@pytest.fixture
def plans() -> list[ScanPlan]:
    if not PLANS:
        PLANS.extend(choose_scans(PhantomRecipe()))
    return PLANS


def auroc(positive: list[bool], score: list[float]) -> float:
    """Mann-Whitney, ties count half."""
    truth, ranks = np.array(positive), rankdata(score)
    n = truth.sum()
    return float((ranks[truth].sum() - n * (n + 1) / 2) / (n * (len(truth) - n)))


def test_half_of_the_scans_are_positive(plans: list[ScanPlan]) -> None:
    assert len(plans) == 160
    assert sum(plan.positive for plan in plans) == 80
    assert [plan.positive for plan in plans[:4]] == [True, False, True, False]


def test_each_patient_comes_once_and_has_one_scan(plans: list[ScanPlan]) -> None:
    series_of = Counter(scan.patient_id for scan in read_scans())
    patients = [plan.scan.patient_id for plan in plans]
    assert len(set(patients)) == len(patients)
    assert all(series_of[patient] == 1 for patient in patients)


def test_positive_windows_hold_a_whole_malignant_nodule_and_negative_scans_none(
    plans: list[ScanPlan],
) -> None:
    for plan in plans:
        malignant = [nodule for nodule in cluster_nodules(plan.scan) if nodule.is_malignant()]
        if not plan.positive:
            assert malignant == []
            continue
        native = [covered_slices(plan.scan.z_mm, nodule, plan.scan.native_spacing_mm) for nodule in malignant]
        chosen = set(plan.indices.tolist())
        assert any(set(np.flatnonzero(slices).tolist()) <= chosen for slices in native), plan.scan.patient_id


def test_windows_are_consecutive_native_slices_of_the_requested_length(plans: list[ScanPlan]) -> None:
    for plan in plans:
        assert set(np.diff(plan.indices)) == {1}
        length = plan.z_mm[-1] - plan.z_mm[0]
        assert 24 - 2 * plan.scan.native_spacing_mm < length <= 24 + 1e-6


@pytest.mark.parametrize("name", ["native_spacing_mm", "slice_thickness_mm", "pixel_spacing_mm", "slices", "position"])
def test_geometry_does_not_separate_the_classes(plans: list[ScanPlan], name: str) -> None:
    def value(plan: ScanPlan) -> float:
        if name == "slices":
            return len(plan.indices)
        if name == "position":
            return float(plan.indices.mean() / len(plan.scan.z_mm))
        return float(getattr(plan.scan, name))

    found = auroc([plan.positive for plan in plans], [value(plan) for plan in plans])
    assert 0.35 < found < 0.65


def test_the_choice_depends_on_the_seed_alone() -> None:
    first, again, other = (choose_scans(PhantomRecipe(scans=10, seed=seed)) for seed in (1, 1, 2))
    assert [p.scan.series_uid for p in first] == [p.scan.series_uid for p in again]
    assert all(np.array_equal(a.indices, b.indices) for a, b in zip(first, again, strict=True))
    assert {p.scan.series_uid for p in first} != {p.scan.series_uid for p in other}


def test_whole_scans_hold_every_native_slice() -> None:
    for plan in choose_scans(PhantomRecipe(scans=4, z_range_mm=None)):
        np.testing.assert_array_equal(plan.z_mm, plan.scan.z_mm)


def test_too_many_scans_are_refused_with_the_maximum() -> None:
    with pytest.raises(LungtlError, match=r"dataset.scans=5000, expected at most \d{3} .*lower dataset.scans"):
        choose_scans(PhantomRecipe(scans=5000))


@pytest.mark.parametrize(
    ("option", "value", "limit"),
    [("matrix", 31, "32"), ("matrix", 513, "512"), ("scans", 1, "2"), ("field_mm", 59, "60"), ("z_range_mm", 0.0, "0"),
     ("seed", -1, "0")],
)  # fmt: skip
def test_impossible_recipes_are_refused(option: str, value: float, limit: str) -> None:
    target = "lungtl.sources.phantom.source.PhantomSource"
    with pytest.raises(UsageError, match=f"dataset.{option}={value}.* {limit}"):
        parts.check({parts.TARGET: target, "root": "x", option: value}, "dataset")
