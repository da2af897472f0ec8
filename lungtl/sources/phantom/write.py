"""Write a phantom as DICOM files in the layout of TCIA: ROOT/PATIENT/STUDY_UID/SERIES_UID/*.dcm."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from lungtl.settings.version import VERSION
from lungtl.sources.lidc_database import Scan
from lungtl.sources.parallel import parallel
from lungtl.sources.phantom.choose import PhantomRecipe, ScanPlan, choose_scans
from lungtl.sources.phantom.render import render

INTERCEPT = -1024  # stored = HU - INTERCEPT, as on most scanners
DATE = "20000101"  # as in LIDC after de-identification
MANUFACTURER = "lungtl phantom"
IMPLEMENTATION_UID = generate_uid(entropy_srcs=["lungtl phantom writer"])
PARTIAL = ".partial"  # unfinished series; those of a killed run are removed by the next one
README = Path(__file__).with_name("README.txt")  # template


def series_folder(plan: ScanPlan, root: Path) -> Path:
    """The folder of the files of a plan."""
    return root / plan.scan.patient_id / plan.scan.study_uid / plan.scan.series_uid


def write_phantom(
    recipe: PhantomRecipe, root: Path, progress: Callable[[int, int], None] | None = None, workers: int = 1
) -> None:
    """Write the missing series of a phantom to a folder of its own."""
    root = Path(root)
    plans = choose_scans(recipe)
    shutil.rmtree(root / PARTIAL, ignore_errors=True)
    missing = [plan for plan in plans if not series_folder(plan, root).is_dir()]
    done = len(plans) - len(missing)
    if progress is not None and done:
        progress(done, len(plans))
    write = partial(_write_atomically, recipe=recipe, root=root)
    for _ in parallel(write, missing, workers if len(missing) > 1 else 1, "rendering phantoms"):
        done += 1
        if progress is not None:
            progress(done, len(plans))
    shutil.rmtree(root / PARTIAL, ignore_errors=True)
    readme = README.read_text(encoding="utf-8").format(version=VERSION, pylidc=version("pylidc"), recipe=asdict(recipe))
    (root / "README.txt").write_text(readme, encoding="utf-8")


def _write_atomically(plan: ScanPlan, recipe: PhantomRecipe, root: Path) -> None:
    final, unfinished = series_folder(plan, root), root / PARTIAL / plan.scan.series_uid
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write_slices(plan, render(plan, recipe), unfinished)
    final.parent.mkdir(parents=True, exist_ok=True)
    unfinished.replace(final)


def write_slices(plan: ScanPlan, voxels: NDArray[np.int16], folder: Path) -> None:
    """Write int16 [S, M, M] HU, ascending z, as files `1-001.dcm` ... numbered from the head as at TCIA."""
    for number, dataset in _datasets(plan, voxels):
        dataset.save_as(folder / f"1-{number:03d}.dcm", enforce_file_format=True)


def _datasets(plan: ScanPlan, voxels: NDArray[np.int16]) -> Iterator[tuple[int, FileDataset]]:
    """One dataset that is modified for each slice: a new one per slice would take most of the writing time."""
    scan = plan.scan
    matrix = voxels.shape[1]
    spacing = plan.field_mm / matrix
    dataset = _series_header(scan, matrix, spacing)
    # The origin is the centre of the scanner's field of view, for any matrix and field.
    corner = [centre - (matrix - 1) / 2 * spacing for centre in plan.centre_mm]
    for k, index in enumerate(plan.indices.tolist()):
        z = float(scan.z_mm[index])
        uid = generate_uid(entropy_srcs=[scan.series_uid, str(index)])
        number = len(scan.z_mm) - index
        dataset.file_meta.MediaStorageSOPInstanceUID = uid
        dataset.SOPInstanceUID = uid
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [*(f"{value:.8f}"[:16] for value in corner), repr(z)[:16]]
        dataset.SliceLocation = repr(z)[:16]
        stored = voxels[k].astype(np.int32) - INTERCEPT
        dataset.PixelData = np.clip(stored, 0, 65535).astype("<u2").tobytes()
        yield number, dataset


def _series_header(scan: Scan, matrix: int, spacing_mm: float) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[scan.series_uid])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = f"LUNGTL_{VERSION}"[:16]

    d = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    d.SpecificCharacterSet = "ISO_IR 100"
    d.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    d.SOPClassUID = CTImageStorage
    d.StudyDate = d.SeriesDate = d.AcquisitionDate = d.ContentDate = DATE
    d.StudyTime = d.AcquisitionTime = d.ContentTime = ""
    d.AccessionNumber = ""
    d.Modality = "CT"
    d.Manufacturer = MANUFACTURER
    d.ReferringPhysicianName = ""
    d.SeriesDescription = "synthetic phantom around LIDC annotations, not a patient"
    d.ManufacturerModelName = MANUFACTURER
    d.DerivationDescription = "computed, no patient was scanned"
    d.PatientName = d.PatientID = scan.patient_id
    d.PatientBirthDate = d.PatientSex = ""
    d.PatientIdentityRemoved = "YES"
    d.DeidentificationMethod = "synthetic"
    d.BodyPartExamined = "CHEST"
    d.SliceThickness = _decimal(scan.slice_thickness_mm)
    d.KVP = "120"
    d.PatientPosition = "FFS"
    d.ConvolutionKernel = "STANDARD"
    d.StudyInstanceUID = scan.study_uid
    d.SeriesInstanceUID = scan.series_uid
    d.StudyID = ""
    d.SeriesNumber = 1
    d.AcquisitionNumber = 1
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.FrameOfReferenceUID = generate_uid(entropy_srcs=[scan.series_uid, "frame"])
    d.PositionReferenceIndicator = ""
    d.SamplesPerPixel = 1
    d.PhotometricInterpretation = "MONOCHROME2"
    d.Rows = d.Columns = matrix
    d.PixelSpacing = [_decimal(spacing_mm)] * 2
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit = 15
    d.PixelRepresentation = 0
    d.BurnedInAnnotation = "NO"
    d.WindowCenter, d.WindowWidth = "-600", "1500"
    d.RescaleIntercept, d.RescaleSlope, d.RescaleType = str(INTERCEPT), "1", "HU"
    return d


def _decimal(value: float) -> str:
    """A DICOM decimal string, which has at most 16 characters."""
    return f"{value:.12g}"[:16]
