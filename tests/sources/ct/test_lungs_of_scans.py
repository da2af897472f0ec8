"""Boxes around the lungs of phantoms and real scans, by their nodules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lungtl.settings.errors import Refused
from lungtl.sources.ct.lungs import Box, lung_box
from lungtl.sources.ct.series import find_series
from lungtl.sources.ct.volume import Volume, read_volume
from lungtl.sources.lidc_database import Scan, read_scans
from lungtl.sources.lidc_nodules import cluster_nodules
from lungtl.sources.phantom import PhantomRecipe, choose_scans, render
from tests.real_data import needs, unpack
from tests.sources.ct.test_lungs import flipped, sides


def points(scan: Scan, z_mm: NDArray[np.float64]) -> NDArray[np.int64]:
    """Int [N, 2] (row, column): all outlines of a scan on the given slices."""
    low, high = z_mm[0] - 0.1, z_mm[-1] + 0.1
    contours = [c for nodule in cluster_nodules(scan) for a in nodule.annotations for c in a.contours]
    return np.concatenate([c.points for c in contours if low <= c.z_mm <= high])


def room_mm(box: Box, outlines: NDArray[np.float64] | NDArray[np.int64], pixel_mm: float) -> float:
    """From the outermost outline point to the nearest edge of the box."""
    row, column = outlines.T + 0.5
    return float(min((row - box.top).min(), (box.bottom - row).min(), (column - box.left).min(),
                     (box.right - column).min())) * pixel_mm  # fmt: skip


def test_whole_chest_phantoms_keep_their_nodules() -> None:
    recipe = PhantomRecipe(scans=12, field_mm=None, z_range_mm=24.0, seed=1)
    shares = []
    for plan in choose_scans(recipe)[::2]:  # the positives
        pixel_mm = plan.field_mm / 128
        box = lung_box(Volume(render(plan, recipe), plan.z_mm, (pixel_mm, pixel_mm)))
        outlines = (points(plan.scan, plan.z_mm) + 0.5) / 4 - 0.5  # LIDC's are in pixels of 512
        assert room_mm(box, outlines, pixel_mm) > 10, plan.scan.patient_id
        shares.append(np.prod(sides(box)) / 128**2)
    assert np.median(shares) < 0.8


def test_targeted_phantoms_are_refused() -> None:
    recipe = PhantomRecipe(scans=4, matrix=64)  # 70 mm around a nodule
    for plan in choose_scans(recipe):
        pixel_mm = plan.field_mm / 64
        with pytest.raises(Refused, match="no lungs found"):
            lung_box(Volume(render(plan, recipe), plan.z_mm, (pixel_mm, pixel_mm)))


# Real scans


@pytest.mark.real
@needs("lidc_dicom_0063.tar.xz")
def test_lidc_0063_keeps_its_nodules(tmp_path_factory: pytest.TempPathFactory) -> None:
    volume, scan = real(unpack("lidc_dicom_0063.tar.xz", tmp_path_factory) / "LIDC-IDRI-0063")
    box = lung_box(volume)
    assert len(cluster_nodules(scan)) == 4
    assert room_mm(box, points(scan, volume.z_mm), 0.78125) > 35
    assert len(set(sides(box))) == 1
    # The lungs fill columns 73..435 (of 512) and rows 111..373 or so: a share of .62 with the margin, squared.
    assert 0.5 < np.prod(sides(box)) / 512**2 < 0.65

    for axis in (1, 2):
        mirrored = lung_box(replace(volume, hu=np.flip(volume.hu, axis)))
        assert mirrored == flipped(box, 512, 512, axis == 1, axis == 2)
    assert lung_box(replace(volume, hu=volume.hu[::-1], z_mm=-volume.z_mm[::-1])) == box


@pytest.mark.real
@needs("lidc_dicom_0001_0002_partial.zip")
@pytest.mark.parametrize("patient", ["LIDC-IDRI-0001", "LIDC-IDRI-0002"])
def test_a_few_slices_are_enough(patient: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    volume, scan = real(unpack("lidc_dicom_0001_0002_partial.zip", tmp_path_factory) / patient)
    box = lung_box(volume)
    assert room_mm(box, points(scan, volume.z_mm), volume.pixel_spacing_mm[0]) > 35
    assert np.prod(sides(box)) < 0.6 * 512**2


def real(folder: Path) -> tuple[Volume, Scan]:
    (series,), _ = find_series(folder)
    (scan,) = read_scans([series.uid])
    return read_volume(series), scan
