"""The real LIDC-IDRI-0063, -0001 and -0002: labels by hand, voxels against SimpleITK."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import SimpleITK

from lungtl.settings.errors import Refused
from lungtl.sources.lidc import LidcSource
from tests.real_data import needs, unpack
from tests.sources.test_lidc import UID_0063, load, z_of

sitk: Any = SimpleITK


@pytest.mark.real
@needs("lidc_dicom_0063.tar.xz")
def test_lidc_0063(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = unpack("lidc_dicom_0063.tar.xz", tmp_path_factory)
    bag = load(root)
    assert (bag.bag_id, bag.patient_id, bag.bag_label) == (UID_0063, "LIDC-IDRI-0063", 1)
    assert bag.voxels.shape == (331, 512, 512)
    assert bag.z_mm.tolist() == [*range(-368, -37)]
    # contours -220.5..-218 [1], -205.5..-198 [4 3 3], -148..-135.5 [5 4], -105.5..-100.5 [3 3 3 2], 1.25 mm wider
    assert z_of(bag, 1) == [*range(-221, -216), *range(-106, -99)]
    assert z_of(bag, 2) == [*range(-206, -196), *range(-149, -134)]
    assert [row["malignancy"] for row in bag.nodules] == pytest.approx([1, 10 / 3, 4.5, 2.75])

    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(root / "LIDC-IDRI-0063"))
    image = sitk.ReadImage(names)
    native = sitk.GetArrayViewFromImage(image)
    assert image.GetOrigin()[2] == -368
    assert image.GetSpacing() == pytest.approx((*bag.pixel_spacing_mm, 2.5))
    assert np.array_equal(bag.voxels[::5], native[::2])  # every other native slice is on the 1 mm grid
    for k in (1, 2, 3, 4, 166, 167, 168, 169, 328, 329):
        below, weight = divmod(k, 2.5)
        low, high = native[int(below)].astype(float), native[int(below) + 1].astype(float)
        assert np.abs(bag.voxels[k] - (low + (high - low) * weight / 2.5)).max() <= 0.5 + 1e-3


@pytest.mark.real
@needs("lidc_dicom_0001_0002_partial.zip")
def test_parts_of_lidc_0001_and_0002(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = unpack("lidc_dicom_0001_0002_partial.zip", tmp_path_factory)
    strict = LidcSource(str(root))
    inventory = strict.inventory()
    assert len(inventory.items) == 2
    assert inventory.refusals == ()
    for item, count in zip(inventory.items, ("16 of the 133", "12 of the 261"), strict=True):
        with pytest.raises(Refused, match=count):
            strict.load(item)
    first, second = (LidcSource(str(root), allow_partial=True).load(item) for item in inventory.items)
    assert (first.patient_id, second.patient_id) == ("LIDC-IDRI-0001", "LIDC-IDRI-0002")
    assert (first.z_mm[0], first.z_mm[-1], len(first.voxels)) == (-132.5, -95.5, 38)
    assert (second.z_mm[0], second.z_mm[-1], len(second.voxels)) == (-94.5, -81.5, 14)
    # nodules with contours -125..-105 [5 5 5 4] and -120.75..-87 [5 4], 1.25 and 0.625 mm wider
    assert z_of(first, 2) == [z - 0.5 for z in range(-125, -103)]
    assert z_of(second, 2) == [z - 0.5 for z in range(-94, -85)]
    assert z_of(first, 1) == z_of(second, 1) == []
    assert (first.bag_label, second.bag_label) == (1, 1)
