"""Content of the voxels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.stats import rankdata

from lungtl.sources.lidc_nodules import cluster_nodules
from lungtl.sources.phantom import PhantomRecipe, ScanPlan, choose_scans, render
from lungtl.sources.phantom.anatomy import fit_patient, lungs
from lungtl.sources.phantom.nodules import Composition, centre_mm, consensus_mask

SMALL = PhantomRecipe(scans=12, matrix=128, field_mm=None, z_range_mm=40.0, seed=5)


@pytest.fixture(scope="module")
def plans() -> list[ScanPlan]:
    return choose_scans(SMALL)


def test_a_slice_is_a_chest(plans: list[ScanPlan]) -> None:
    plan = dataclasses.replace(plans[0], indices=plans[0].indices[:2])
    hu = render(plan, SMALL)
    assert hu.shape == (2, 128, 128)
    assert hu.dtype == np.int16
    air, lung, soft, bone = ((hu > low) & (hu < high) for low, high in
                             ((-1100, -960), (-940, -700), (0, 120), (300, 1500)))  # fmt: skip
    assert air[:, :6].mean() > 0.9  # above the patient
    assert 0.08 < lung.mean() < 0.5
    assert 0.05 < soft.mean() < 0.6
    assert 0.01 < bone.mean() < 0.12
    assert lung[:, 30:98, 20:108].mean() > 2 * lung.mean()  # the lungs are inside


def test_solid_nodules_are_solid_where_all_readers_drew_them(plans: list[ScanPlan]) -> None:
    seen = 0
    for plan in plans:
        scan = plan.scan
        nodules = [n for n in cluster_nodules(scan) if Composition.of(n).texture >= 4.5 and n.diameter_mm >= 8]
        image = render(plan, SMALL) if nodules else None
        for nodule in nodules:
            (row, column), mask = consensus_mask(scan, nodule)
            first = int(np.searchsorted(scan.z_mm, nodule.z_range_mm[0] - 1e-6)) - 1
            deep = distance_transform_edt(np.pad(mask > 0.9, ((0, 0), (1, 1), (1, 1))))[:, 1:-1, 1:-1]
            k, i, j = np.unravel_index(int(deep.argmax()), deep.shape)
            if first + k not in plan.indices or deep.max() < 5:  # 5 native pixels are a whole one of 128
                continue
            assert image is not None
            found = image[int(first + k - plan.indices[0]), (row + i) // 4, (column + j) // 4]
            assert found > -150, (scan.patient_id, nodule.number)
            seen += 1
    assert seen >= 4


def test_a_targeted_field_shows_the_same_nodule_where_its_geometry_says(plans: list[ScanPlan]) -> None:
    recipe = PhantomRecipe(scans=12, matrix=96, seed=5)
    seen = 0
    for plan in choose_scans(recipe):
        if not plan.positive:
            continue
        low, high = plan.z_mm[[0, -1]]
        inside = [n for n in cluster_nodules(plan.scan) if low <= n.z_range_mm[0] and n.z_range_mm[1] <= high]
        target = max((n for n in inside if n.is_malignant()), key=lambda n: n.diameter_mm)
        if Composition.of(target).texture < 4.5:
            continue
        x, y, z = centre_mm(target)
        pixel = plan.field_mm / recipe.matrix
        column, row = ((v - c) / pixel + (recipe.matrix - 1) / 2 for v, c in zip((x, y), plan.centre_mm, strict=True))
        image = render(plan, recipe)[int(np.abs(plan.z_mm - z).argmin())]
        near = image[round(row) - 1 : round(row) + 2, round(column) - 1 : round(column) + 2]
        assert near.shape == (3, 3), "the nodule lies inside the field"
        assert np.median(near) > -200, plan.scan.patient_id
        seen += 1
    assert seen >= 3


def test_fields_without_a_nodule_are_in_a_lung() -> None:
    recipe = PhantomRecipe(scans=30, matrix=48, seed=5)
    plans = [plan for plan in choose_scans(recipe) if plan.lung_mm is not None]
    assert plans
    for plan in plans:
        assert plan.lung_mm is not None
        patient = fit_patient(plan, recipe, cluster_nodules(plan.scan))
        assert lungs(patient, *(np.full((1, 1, 1), v, np.float32) for v in plan.lung_mm)).item() < 0.5


def test_lungs_hold_the_centres_of_all_nodules(plans: list[ScanPlan]) -> None:
    for plan in plans:
        nodules = cluster_nodules(plan.scan)
        patient = fit_patient(plan, SMALL, nodules)
        for nodule in nodules:
            x, y, z = (np.full((1, 1, 1), v, np.float32) for v in centre_mm(nodule))
            assert lungs(patient, x, y, z).item() < 0.5, (plan.scan.patient_id, nodule.number)


def test_matrices_show_the_same_chest(plans: list[ScanPlan]) -> None:
    plan = dataclasses.replace(plans[1], indices=plans[1].indices[5:6])
    fine, coarse = (render(plan, dataclasses.replace(SMALL, matrix=m))[0].astype(float) for m in (256, 64))
    averaged = fine.reshape(64, 4, 64, 4).mean(axis=(1, 3))
    assert np.corrcoef(averaged.ravel(), coarse.ravel())[0, 1] > 0.99
    for shift in ((0, 1), (1, 0), (0, -1), (-1, 0)):  # aligned to less than half a pixel
        assert np.abs(averaged - coarse).mean() < np.abs(np.roll(averaged, shift, (0, 1)) - coarse).mean()


def test_rendering_twice_gives_the_same_voxels(plans: list[ScanPlan]) -> None:
    tiny = dataclasses.replace(SMALL, matrix=48)
    first, again = render(plans[0], tiny), render(plans[0], tiny)
    np.testing.assert_array_equal(first, again)
    other = render(plans[0], dataclasses.replace(tiny, seed=6))
    assert np.abs(first.astype(int) - other).mean() > 10


def statistics(hu: NDArray[np.int16]) -> dict[str, float]:
    """Statistics of a volume that should be independent of its label."""
    found: dict[str, float] = {}
    percentiles = (0.1, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9)
    for name, values in (("volume", hu.ravel()), ("lung", hu[(hu > -1000) & (hu < -500)])):
        found |= {f"{name} mean": float(values.mean()), f"{name} std": float(values.std())}
        found |= {f"{name} max": float(values.max()), f"{name} min": float(values.min())}
        found |= {f"{name} p{q}": p for q, p in zip(percentiles, np.percentile(values, percentiles), strict=True)}
    thresholds = range(-950, 1000, 50)
    above = 1 - np.searchsorted(np.sort(hu, axis=None), thresholds, side="right") / hu.size
    found |= {f"above {h}": share for h, share in zip(thresholds, above, strict=True)}
    slices = hu.reshape(len(hu), -1).astype(float)
    return found | {"slice std": slices.mean(1).std(), "slice max": slices.mean(1).max()}


@pytest.mark.parametrize(
    ("recipe", "margin"),
    [
        (PhantomRecipe(scans=40, matrix=64), 0.3),
        pytest.param(PhantomRecipe(seed=0), 0.25, marks=pytest.mark.exhaustive),
        pytest.param(PhantomRecipe(seed=1), 0.25, marks=pytest.mark.exhaustive),
    ],
    ids=["quick", "seed 0", "seed 1"],
)
def test_no_statistic_of_the_voxels_reveals_the_label(recipe: PhantomRecipe, margin: float) -> None:
    plans = choose_scans(recipe)
    rows = [statistics(render(plan, recipe)) for plan in plans]
    truth = np.array([plan.positive for plan in plans])
    n = truth.sum()
    for name in rows[0]:
        ranks = rankdata([row[name] for row in rows])
        found = (ranks[truth].sum() - n * (n + 1) / 2) / (n * (len(truth) - n))
        assert abs(found - 0.5) < margin, name
