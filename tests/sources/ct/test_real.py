"""The reader on LIDC-IDRI-0063, against SimpleITK and against the published crops of its nodules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from PIL import Image

from lungtl.sources.ct.volume import Volume, read_volume, resample_z
from lungtl.sources.lidc_database import read_scans
from lungtl.sources.lidc_nodules import Nodule, cluster_nodules
from tests.real_data import needs, unpack
from tests.sources.ct.found import only

sitk: Any = SimpleITK
ARCHIVE, CROPS = "lidc_dicom_0063.tar.xz", "lidc_slices.tar"
SIDE = 128
pytestmark = [pytest.mark.real, needs(ARCHIVE)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(ARCHIVE, tmp_path_factory) / "LIDC-IDRI-0063"


@pytest.fixture(scope="module")
def volume(root: Path) -> Volume:
    return read_volume(only(root))


@pytest.fixture(scope="module")
def oracle(root: Path) -> Any:
    """SimpleITK's image of the same files."""
    return sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(root)))


def test_hu_and_geometry_as_simpleitk(root: Path, volume: Volume, oracle: Any) -> None:
    assert np.array_equal(volume.hu, sitk.GetArrayViewFromImage(oracle))
    x0, y0, z0 = oracle.GetOrigin()
    assert only(root).files[0].position_mm == pytest.approx((x0, y0, z0))
    assert oracle.GetSpacing() == pytest.approx((*volume.pixel_spacing_mm[::-1], 2.5))
    assert np.allclose(volume.z_mm, z0 + 2.5 * np.arange(133))


def test_1_mm_slices_as_simpleitk(volume: Volume, oracle: Any) -> None:
    found = resample_z(volume)
    centre = slice(128, 384)  # a quarter of the pixels, to be quick
    image = sitk.Cast(oracle[centre, centre, :], sitk.sitkFloat32)
    grid = sitk.Image(256, 256, 331, sitk.sitkFloat32)
    grid.SetOrigin(image.GetOrigin())
    grid.SetSpacing((*image.GetSpacing()[:2], 1))
    expected = sitk.GetArrayFromImage(sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear))
    assert found.hu.shape == (331, 512, 512)
    assert np.abs(found.hu[:, centre, centre] - expected).max() <= 0.5 + 1e-3


@needs(CROPS)
def test_published_crops_are_cut_from_the_same_pixels(volume: Volume, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = unpack(CROPS, tmp_path_factory) / "LIDC-IDRI-slices" / "LIDC-IDRI-0063"
    (scan,) = read_scans(["1.3.6.1.4.1.14519.5.2.1.6279.6001.272190966764020277652079081128"])
    nodules = {nodule.number: nodule for nodule in cluster_nodules(scan)}
    places = {}
    for path in sorted(folder.glob("nodule-*/images/*.png")):
        number = int(path.parents[1].name.removeprefix("nodule-"))
        crop = np.asarray(Image.open(path))
        places[f"{number}/{path.stem}"] = list(matches(volume, nodules[number], crop))
    assert all(len(found) == 1 for found in places.values()), "each crop is found at one place, near its nodule"
    assert {key: found[0] for key, found in places.items()} == {
        "1/slice-0": -203.0, "1/slice-1": -200.5, "1/slice-2": -198.0,
        "2/slice-0": -148.0, "2/slice-1": -145.5, "2/slice-2": -143.0,
        "2/slice-3": -140.5, "2/slice-4": -138.0, "2/slice-5": -135.5,
        "3/slice-0": -105.5, "3/slice-1": -103.0, "3/slice-2": -100.5,
    }  # fmt: skip


def matches(volume: Volume, nodule: Nodule, crop: NDArray[np.uint8]) -> Iterator[float]:
    """Yield the z of each position near a nodule's centre whose pixels, min-max scaled, match the crop."""
    points = np.concatenate([contour.points for a in nodule.annotations for contour in a.contours])
    top, left = np.rint(points.mean(axis=0)).astype(int) - SIDE // 2
    low, high = nodule.z_range_mm
    for k in np.flatnonzero((volume.z_mm >= low) & (volume.z_mm <= high)):
        for y, x in np.ndindex(13, 13):
            hu = volume.hu[k, top + y - 6 :, left + x - 6 :][:SIDE, :SIDE].astype(np.float64)
            scaled = (hu - hu.min()) / np.ptp(hu) * 255
            if np.abs(scaled - crop).max() <= 0.5 + 1e-9:
                yield float(volume.z_mm[k])
