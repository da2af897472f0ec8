"""The written series: geometry, identifiers, bytes, resuming."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK

from lungtl.sources.phantom import PhantomRecipe, ScanPlan, choose_scans, render, write_phantom
from lungtl.sources.phantom.write import series_folder, write_slices
from tests.sources.pylidc_compat import load_pylidc

TINY = PhantomRecipe(scans=4, matrix=40, field_mm=None, z_range_mm=15.0)


@pytest.fixture(scope="module")
def plans() -> list[ScanPlan]:
    return choose_scans(TINY)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_phantom(TINY, folder)
    return folder


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_headers_carry_the_real_geometry_and_identifiers(root: Path, plans: list[ScanPlan]) -> None:
    for plan in plans:
        scan = plan.scan
        files = sorted((root / scan.patient_id / scan.study_uid / scan.series_uid).glob("*.dcm"))
        headers = sorted((pydicom.dcmread(f) for f in files), key=lambda d: float(d.ImagePositionPatient[2]))
        assert [float(d.ImagePositionPatient[2]) for d in headers] == plan.z_mm.tolist()
        assert [d.InstanceNumber for d in headers] == (len(scan.z_mm) - plan.indices).tolist()
        assert len({d.SOPInstanceUID for d in headers}) == len(headers)
        for d in headers:
            assert (d.PatientID, str(d.PatientName)) == (scan.patient_id, scan.patient_id)
            assert (d.StudyInstanceUID, d.SeriesInstanceUID) == (scan.study_uid, scan.series_uid)
            assert d.file_meta.MediaStorageSOPInstanceUID == d.SOPInstanceUID
            assert d.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
            assert d.SOPClassUID == pydicom.uid.CTImageStorage
            assert (float(d.RescaleSlope), float(d.RescaleIntercept)) == (1, -1024)
            assert (d.Manufacturer, d.ImageType[0]) == ("lungtl phantom", "DERIVED")
            assert float(d.SliceThickness) == scan.slice_thickness_mm
            assert d.PixelSpacing == pytest.approx([scan.pixel_spacing_mm * 512 / 40] * 2)


def test_pixel_centres_agree_between_matrices(tmp_path: Path, plans: list[ScanPlan]) -> None:
    plan = dataclasses.replace(plans[0], indices=plans[0].indices[:1])
    corners = {}
    for matrix in (32, 64):
        (tmp_path / str(matrix)).mkdir()
        write_slices(plan, render(plan, dataclasses.replace(TINY, matrix=matrix)), tmp_path / str(matrix))
        d = pydicom.dcmread(next((tmp_path / str(matrix)).glob("*.dcm")))
        # The outer edge of the image is half a pixel outside the first pixel's centre.
        corners[matrix] = float(d.ImagePositionPatient[0]) - float(d.PixelSpacing[0]) / 2
    assert corners[32] == pytest.approx(corners[64], abs=1e-5)
    assert corners[32] == pytest.approx(-256 * plan.scan.pixel_spacing_mm, abs=1e-5)


def test_simpleitk_reads_the_rendered_hu(root: Path, plans: list[ScanPlan]) -> None:
    plan = plans[1]
    folder = series_folder(plan, root)
    sitk: Any = SimpleITK  # untyped
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), plan.scan.series_uid))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), render(plan, TINY))
    assert image.GetOrigin()[2] == pytest.approx(plan.z_mm[0])
    assert image.GetSpacing()[2] == pytest.approx(plan.scan.native_spacing_mm, abs=1e-4)


def test_the_same_recipe_gives_the_same_bytes_with_any_workers(root: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_phantom(TINY, tmp_path, lambda done, total: seen.append((done, total)), workers=2)
    assert contents(tmp_path) == contents(root)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_killed_run_is_completed_and_finished_series_stay(root: Path, tmp_path: Path, plans: list[ScanPlan]) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(TINY, tmp_path, stop)
    assert not (tmp_path / "README.txt").exists()
    finished = [p for p in tmp_path.rglob("*.dcm") if ".partial" not in p.parts]
    stamps = {p: p.stat().st_mtime_ns for p in finished}
    # The remains of a run killed in the middle of a series.
    torn = tmp_path / ".partial" / plans[2].scan.series_uid
    torn.mkdir(parents=True)
    (torn / "1-001.dcm").write_bytes(b"torn")

    seen: list[tuple[int, int]] = []
    write_phantom(TINY, tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(2, 4), (3, 4), (4, 4)]
    assert {p: p.stat().st_mtime_ns for p in finished} == stamps
    assert contents(tmp_path) == contents(root)


def test_the_readme_describes_the_phantom(root: Path) -> None:
    text = (root / "README.txt").read_text()
    assert "NO CLINICAL MEANING" in text
    assert "'matrix': 40" in text


def test_pylidc_reads_a_whole_native_series(tmp_path: Path) -> None:
    recipe = PhantomRecipe(scans=100, matrix=32, z_range_mm=None)
    plan = min(choose_scans(recipe), key=lambda plan: len(plan.indices))
    voxels = (
        np.random.default_rng(0)
        .integers(-1024, 3071, (len(plan.indices), recipe.matrix, recipe.matrix))
        .astype(np.int16)
    )
    folder = series_folder(plan, tmp_path / "data")
    folder.mkdir(parents=True)
    write_slices(plan, voxels, folder)
    pylidc = load_pylidc(tmp_path / "data")
    scan = pylidc.query(pylidc.Scan).filter(pylidc.Scan.series_instance_uid == plan.scan.series_uid).one()
    images = scan.load_all_dicom_images(verbose=False)
    assert [float(i.ImagePositionPatient[2]) for i in images] == sorted(scan.slice_zvals.tolist())
    np.testing.assert_array_equal(scan.to_volume(verbose=False).transpose(2, 0, 1), voxels)
