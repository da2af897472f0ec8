"""The real LIDC-IDRI-slices."""

from __future__ import annotations

import csv
import functools
from collections import Counter
from pathlib import Path

import pytest

from lungtl.sources import lidc_slices
from lungtl.sources.lidc_nodules import Nodule
from lungtl.sources.lidc_slices import LidcSlicesSource
from tests.real_data import folder, lidc_nodules, lidc_scans, needs, unpack


@pytest.fixture(scope="module")
def real_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("lidc_slices.tar", tmp_path_factory)


@pytest.fixture(scope="module", params=[10, pytest.param(1, marks=pytest.mark.exhaustive)], ids=["sample", "all"])
def patients(request: pytest.FixtureRequest, real_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every tenth patient, or with all of them."""
    folder = tmp_path_factory.mktemp("patients")
    for number, patient in enumerate(sorted(real_root.glob("LIDC-IDRI-slices/LIDC-IDRI-*"))):
        if number % request.param == 0:
            (folder / patient.name).symlink_to(patient)
    return folder


@pytest.fixture(autouse=True)
def cluster_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clustering all scans takes seconds; it is tested on its own."""
    monkeypatch.setattr(lidc_slices, "cluster_nodules", lambda scan: _nodules_of()[scan.scan_id])


@functools.cache
def _nodules_of() -> dict[int, list[Nodule]]:
    return {scan.scan_id: list(nodules) for scan, nodules in zip(lidc_scans(), lidc_nodules(), strict=True)}


@pytest.mark.real
@needs("lidc_slices.tar", "lidc_slices_nodules.csv")
def test_every_nodule_agrees_with_the_table_joined_by_pylidc(patients: Path) -> None:
    source = LidcSlicesSource(str(patients), min_readers=1, indeterminate="keep")
    inventory = source.inventory()
    items = {item.bag_id: item for item in inventory.items}
    with (folder() / "lidc_slices_nodules.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1562
    table = [row for row in rows if (patients / row["patient_id"]).exists()]
    one_scan = [row for row in table if row["n_scans_of_patient"] == "1"]
    assert set(items) == {f"{row['patient_id']}_nodule-{row['nodule']}" for row in one_scan}
    two_scans = {row["patient_id"] for row in table if row["n_scans_of_patient"] == "2"}
    assert {refusal.item for refusal in inventory.refusals} == two_scans
    for number, row in enumerate(one_scan):
        item = items[f"{row['patient_id']}_nodule-{row['nodule']}"]
        (crops,) = item.content.crops
        nodule = crops.row
        assert nodule["ratings"] == row["malignancy"]
        assert nodule["n_readers"] == int(row["n_raters"])
        assert len(crops.files) == int(row["n_png_slices"])
        assert nodule["malignancy"] == pytest.approx(float(row["mal_mean"]), abs=5e-3)
        assert nodule["malignancy_median"] == float(row["mal_median"])
        assert nodule["diameter_mm"] == pytest.approx(float(row["diameter_mean_mm"]), abs=5.1e-3)
        if number % 5:  # pixels of every fifth nodule, to be quick
            continue
        bag = source.load(item)
        assert bag.bag_label == int(float(row["mal_median"]) >= 3)
        assert (bag.diameter_mm, bag.details["n_readers"]) == (nodule["diameter_mm"], nodule["n_readers"])
        assert bag.pixel_spacing_mm[0] == pytest.approx(float(row["pixel_spacing"]))
        assert bag.voxels.shape == (int(row["n_png_slices"]), 128, 128)
        assert (bag.voxels.min(), bag.voxels.max()) == (0, 255)


@pytest.mark.real
@pytest.mark.exhaustive
@needs("lidc_slices.tar")
def test_708_definite_nodules_of_431_patients(real_root: Path) -> None:
    inventory = LidcSlicesSource(str(real_root)).inventory()
    patients = [item.content.patient_id for item in inventory.items]
    assert (len(patients), len(set(patients)), len(inventory.refusals)) == (708, 431, 8)
    labels = Counter(crops.row["malignant"] for item in inventory.items for crops in item.content.crops)
    assert labels == {False: 380, True: 328}
    of_patients = LidcSlicesSource(str(real_root), bag="patient").inventory()
    assert sorted(item.bag_id for item in of_patients.items) == sorted(set(patients))
