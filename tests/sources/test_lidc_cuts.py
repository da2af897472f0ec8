"""`dataset=lidc dataset.bag=nodule` and `patient`: tiny series of LIDC-IDRI-0709 and the real LIDC-IDRI-0063."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from PIL import Image

from lungtl.settings.errors import UsageError
from lungtl.sources.base import Bag
from lungtl.sources.ct.cut import locate
from lungtl.sources.dicom import DicomSource
from lungtl.sources.lidc import LidcSource
from tests.real_data import needs, unpack
from tests.sources.ct.found import only
from tests.sources.test_lidc import UID_0063, UID_0709, Z_0709, write_0709

sitk: Any = SimpleITK
ARCHIVE, CROPS = "lidc_dicom_0063.tar.xz", "lidc_slices.tar"


def load(source: LidcSource | DicomSource) -> dict[str, Bag]:
    return {item.bag_id: source.load(item) for item in source.inventory().items}


def test_every_nodule_is_a_case_on_its_own_slices(tmp_path: Path) -> None:
    bags = load(LidcSource(str(write_0709(tmp_path)), bag="nodule", field_mm=1))
    spans = [(1523, 1528), (1538, 1573), (1559, 1576), (1589, 1597), (1613, 1621), (1622, 1627)]
    assert list(bags) == [f"{UID_0709}_nodule-{k}" for k in range(6)]
    for bag, (first, last), malignant in zip(bags.values(), spans, (0, 1, 0, 0, 0, 0), strict=True):
        assert bag.z_mm.tolist() == list(range(first, last + 1))
        assert set(bag.slice_labels) == {1 + malignant}
        assert (bag.patient_id, bag.bag_label, len(bag.nodules)) == ("LIDC-IDRI-0709", malignant, 1)
        assert bag.diameter_mm == bag.nodules[0]["diameter_mm"] > 0
        assert bag.pixel_spacing_mm == (0.75, 0.75)
    assert bags[f"{UID_0709}_nodule-1"].details["n_readers"] == 4


def test_only_nodules_that_count_are_cases(tmp_path: Path) -> None:
    source = LidcSource(str(write_0709(tmp_path)), bag="nodule", min_readers=2, field_mm=1)
    assert list(load(source)) == [f"{UID_0709}_nodule-{k}" for k in (1, 2, 3, 4)]


def test_nodules_that_do_not_count_can_train_without_a_label(tmp_path: Path) -> None:
    root = str(write_0709(tmp_path))
    bags = load(LidcSource(root, bag="nodule", min_readers=2, uncounted="train", field_mm=1))
    assert [bag.bag_label for bag in bags.values()] == [-1, 1, 0, 0, 0, -1]
    assert [bag.votes for bag in bags.values()] == [0, 1, 0.25, 0, 0, 0]
    assert set(bags[f"{UID_0709}_nodule-0"].slice_labels) == {-1}
    (patient,) = load(LidcSource(root, bag="patient", min_readers=2, uncounted="train", field_mm=1)).values()
    assert (patient.bag_label, patient.votes, patient.details["n_nodules"]) == (1, 1, 4)


def test_a_patients_nodules_are_one_case(tmp_path: Path) -> None:
    (bag,) = load(LidcSource(str(write_0709(tmp_path)), bag="patient", min_readers=2, field_mm=1)).values()
    assert (bag.bag_id, bag.bag_label, bag.details["n_nodules"]) == ("LIDC-IDRI-0709", 1, 4)
    assert bag.slice_labels.tolist() == [2] * 36 + [1] * (18 + 9 + 9)
    assert bag.diameter_mm == max(row["diameter_mm"] for row in bag.nodules)


def test_a_partial_series_has_the_nodules_on_its_slices(tmp_path: Path) -> None:
    root = write_0709(tmp_path, Z_0709[:80])  # to z = 1584
    strict = LidcSource(str(root), bag="nodule", field_mm=1).inventory()
    assert not strict.items
    assert [refusal.item for refusal in strict.refusals] == [UID_0709]
    assert "only 80 of the 100 slices" in strict.refusals[0].reason
    assert len(load(LidcSource(str(root), bag="nodule", allow_partial=True, field_mm=1))) == 3


def test_stores_of_scans_keep_their_address(tmp_path: Path) -> None:
    assert "bag" not in LidcSource(str(tmp_path)).recipe()
    assert LidcSource(str(tmp_path), bag="nodule").recipe()["field_mm"] == 80
    with pytest.raises(UsageError, match=r"dataset\.crop=lungs is for whole scans"):
        LidcSource(str(tmp_path), bag="nodule", crop="lungs").listing()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(ARCHIVE, tmp_path_factory) / "LIDC-IDRI-0063"


@pytest.fixture(scope="module")
def real(root: Path) -> dict[str, Bag]:
    return load(LidcSource(str(root), bag="nodule"))


@pytest.mark.real
@needs(ARCHIVE, CROPS)
def test_the_crops_of_0063_are_the_published_ones(
    real: dict[str, Bag], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """On the native slices among the 1 mm ones, up to the grey scaling of each published crop."""
    assert [bag.nodules[0]["ratings"] for bag in real.values()] == ["1", "4 3 3", "5 4", "3 3 3 2"]
    folder = unpack(CROPS, tmp_path_factory) / "LIDC-IDRI-slices" / "LIDC-IDRI-0063"
    published = {1: {0: -203, 2: -198}, 2: {0: -148, 2: -143, 4: -138}, 3: {1: -103}}
    compared = 0
    for number, slices in published.items():
        bag = real[f"{UID_0063}_nodule-{number}"]
        for index, z in slices.items():
            crop = np.asarray(Image.open(folder / f"nodule-{number}" / "images" / f"slice-{index}.png"), np.float64)
            (own,) = bag.voxels[bag.z_mm == z].astype(np.float64)
            assert best_correlation(own, crop) > 0.999
            compared += 1
    assert compared == 6


def best_correlation(own: NDArray[np.float64], crop: NDArray[np.float64], side: int = 64) -> float:
    """Of the central squares, shifted by at most 2 pixels: the centroids are rounded differently."""
    top, left = (n // 2 - side // 2 for n in own.shape)
    inside = own[top : top + side, left : left + side].ravel()
    first = crop.shape[0] // 2 - side // 2
    return max(
        float(np.corrcoef(inside, crop[first + y :, first + x :][:side, :side].ravel())[0, 1])
        for y in range(-2, 3)
        for x in range(-2, 3)
    )


@pytest.mark.real
@needs(ARCHIVE)
def test_a_table_of_positions_gives_the_same_voxels(real: dict[str, Bag], root: Path, tmp_path: Path) -> None:
    """Centroids of 0063's nodules in patient coordinates, as SimpleITK has them."""
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(root)))
    series = only(root)
    source = LidcSource(str(root), bag="nodule")
    lines = ["series_uid,patient_id,label,x_mm,y_mm,z_mm,diameter_mm"]
    for item in source.inventory().items:
        _, scan, (nodule,) = item.content
        row, column, k = nodule.centroid(scan.z_mm)
        x, y, z = image.TransformContinuousIndexToPhysicalPoint((column, row, k))
        assert locate(series, (x, y, z)) == pytest.approx((row, column), abs=1e-6)
        lines.append(f"{UID_0063},p,{real[item.bag_id].bag_label},{x!r},{y!r},{z!r},6")
    (tmp_path / "points.csv").write_text("\n".join(lines) + "\n")
    found = load(DicomSource(str(root), str(tmp_path / "points.csv")))
    assert len(found) == 4
    for own, bag in zip(real.values(), found.values(), strict=True):
        common = np.intersect1d(own.z_mm, bag.z_mm)
        assert len(common) >= 2
        np.testing.assert_array_equal(own.voxels[np.isin(own.z_mm, common)], bag.voxels[np.isin(bag.z_mm, common)])
