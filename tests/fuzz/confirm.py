"""Read a damaged series, and check the result independently."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from lungtl.settings.errors import LungtlError
from lungtl.sources.ct.series import Series, check_gap, find_series
from lungtl.sources.ct.volume import Volume, read_volume, resample_z

MAX_GAP_MM = 10.0
LOWEST = -32768


def read_everything(root: Path) -> str:
    """Read all series below a folder as `prepare` does, and confirm each volume.

    Returns:
        'volume' when one was read and confirmed, else 'refused'.

    Raises:
        AssertionError: a volume that pydicom's own reading of the files does not confirm.
        Exception: whatever else the reader lets through: a bug.
    """
    outcome = "refused"
    try:
        found, _ = find_series(root)
    except LungtlError:
        return outcome
    for series in found:
        try:
            check_gap(series, MAX_GAP_MM)
            volume = read_volume(series)
            resampled = resample_z(volume)
        except LungtlError:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom on damaged values
            confirm(series, volume, resampled)
        outcome = "volume"
    return outcome


def _read(path: str) -> pydicom.FileDataset:
    """A file, also without preamble; pydicom needs the name of the encoding that it found itself."""
    dataset = pydicom.dcmread(path, force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    return dataset


def confirm(series: Series, volume: Volume, resampled: Volume) -> None:
    """Compare geometry and HU with pydicom, and the 1 mm slices with numpy's interpolation."""
    plain = sorted((_read(file.path) for file in series.files), key=lambda d: float(d.ImagePositionPatient[2]))
    z = np.array([float(d.ImagePositionPatient[2]) for d in plain])
    assert np.array_equal(volume.z_mm, z)
    assert (np.diff(z) > 0).all()
    assert np.diff(z).max() <= MAX_GAP_MM
    assert len({str(d.SOPInstanceUID) for d in plain}) == len(plain)
    for k, dataset in enumerate(plain):
        assert str(dataset.SeriesInstanceUID) == series.uid
        assert dataset.Modality == "CT"
        assert np.allclose(np.array(dataset.ImageOrientationPatient, float), [1, 0, 0, 0, 1, 0], atol=1e-3)
        assert tuple(map(float, dataset.PixelSpacing)) == volume.pixel_spacing_mm
        assert (dataset.Rows, dataset.Columns) == volume.hu.shape[1:]
        pixels = dataset.pixel_array
        hu = np.rint(pixels * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept))
        if "PixelPaddingValue" in dataset:  # nothing was measured there: the lowest value, if it has no HU
            padding = (pixels.astype(int) - int(dataset.PixelPaddingValue)) % 65536 == 0
            hu[padding & ((hu < LOWEST) | (hu > -LOWEST - 1))] = LOWEST
        assert np.array_equal(volume.hu[k], hu)
    assert np.allclose(np.diff(resampled.z_mm), 1.0)
    assert resampled.z_mm[0] == z[0]
    assert z[-1] - 1 < resampled.z_mm[-1] + 1e-6 <= z[-1] + 1e-5
    row, column = volume.hu.shape[1] // 2, volume.hu.shape[2] // 2
    between = np.interp(resampled.z_mm, z, volume.hu[:, row, column])
    assert np.abs(resampled.hu[:, row, column] - between).max() <= 0.51
