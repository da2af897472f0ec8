"""Tiny CT series as real DICOM files, with any kind of damage; the same call gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

UID = "1.2.826.0.1.3680043.8.498.1"
Edit = Callable[[int, FileDataset], None]


def ramp(n: int, rows: int = 3, columns: int = 4) -> NDArray[np.int16]:
    """int16 [n, rows, columns] stored values 0, 7, 14, ...: no two voxels of a small series agree."""
    return (np.arange(n * rows * columns) * 7 % 4096).astype(np.int16).reshape(n, rows, columns)


def write_series(
    folder: Path,
    z_mm: Sequence[float] | NDArray[np.float64],
    stored: NDArray[Any] | None = None,
    *,
    uid: str = UID,
    slope: Sequence[float] | float = 1,
    intercept: Sequence[float] | float = -1024,
    names: Sequence[str] | None = None,
    edit: Edit | None = None,
    rle: bool = False,
    **tags: Any,
) -> list[Path]:
    """Write one file per slice.

    Args:
        folder: created if missing.
        z_mm: ImagePositionPatient z of each slice.
        stored: [S, rows, columns], 16-bit stored values, signed or not; default: `ramp`.
        uid: SeriesInstanceUID.
        slope: RescaleSlope, one for all or one per slice.
        intercept: RescaleIntercept likewise.
        names: file names relative to folder; default: 'slice-000.dcm' ...
        edit: called with (index, dataset) before a slice is written.
        rle: compress the pixels.
        tags: keyword=value for every slice; None omits the tag.

    Returns:
        The files in the order of z_mm.
    """
    n = len(z_mm)
    stored = ramp(n) if stored is None else stored
    slopes, intercepts = np.broadcast_to(slope, n), np.broadcast_to(intercept, n)
    paths = []
    for k in range(n):
        dataset = ct_slice(uid, k, float(z_mm[k]), stored[k])
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{slopes[k]:.10g}", f"{intercepts[k]:.10g}"
        for keyword, value in tags.items():
            if value is None:
                del dataset[keyword]
            else:
                setattr(dataset, keyword, value)
        if edit is not None:
            edit(k, dataset)
        if rle:
            dataset.compress(RLELossless, generate_instance_uid=False)
        path = folder / (f"slice-{k:03d}.dcm" if names is None else names[k])
        path.parent.mkdir(parents=True, exist_ok=True)
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def ct_slice(uid: str, index: int, z_mm: float, stored: NDArray[Any]) -> FileDataset:
    """One CT Image Storage instance: axial, 0.75 x 0.75 mm, 2.5 mm thick."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[uid, str(index)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID = CTImageStorage
    d.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    d.SeriesInstanceUID = uid
    d.StudyInstanceUID = generate_uid(entropy_srcs=[uid, "study"])
    d.Modality = "CT"
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.Manufacturer = "a pencil"
    d.SliceThickness = "2.5"
    d.ImagePositionPatient = ["-10", "-20", f"{z_mm:.10g}"]
    d.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    d.PixelSpacing = ["0.75", "0.75"]
    d.SamplesPerPixel = 1
    d.PhotometricInterpretation = "MONOCHROME2"
    d.Rows, d.Columns = stored.shape
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit = 15
    d.PixelRepresentation = int(np.issubdtype(stored.dtype, np.signedinteger))
    d.PixelData = stored.astype("<i2" if d.PixelRepresentation else "<u2").tobytes()
    return d


def remove_preamble(path: Path, *, meta: bool = True) -> None:
    """Remove the 128 bytes and DICM at the start of a file; `meta`: the file meta information, too."""
    content = path.read_bytes()
    length = int.from_bytes(content[140:144], "little")
    path.write_bytes(content[144 + length if meta else 132 :])


def truncate(path: Path, keep: int) -> None:
    """Keep the first bytes of a file, or all but the last if negative."""
    path.write_bytes(path.read_bytes()[:keep])
