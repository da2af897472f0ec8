"""pylidc itself, made usable: on markings, on images, and without a trace in numpy or the home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.settings.errors import LungtlError
from lungtl.sources.lidc_database import read_scans
from tests.dicom_files import ramp, write_series
from tests.real_data import needs, unpack
from tests.sources.pylidc_compat import load_pylidc

UID_0709 = "1.3.6.1.4.1.14519.5.2.1.6279.6001.309707676674808510671394142910"
UID_0063 = "1.3.6.1.4.1.14519.5.2.1.6279.6001.272190966764020277652079081128"


def pylidc_scan(uid: str, dicom_root: Path | None = None) -> Any:
    pylidc = load_pylidc(dicom_root)
    return pylidc.query(pylidc.Scan).filter(pylidc.Scan.series_instance_uid == uid).one()


def test_its_clusters_masks_and_surfaces_work() -> None:
    groups = pylidc_scan(UID_0709).cluster_annotations(verbose=False)
    assert [[a.malignancy for a in group] for group in groups] == [[1], [5, 5, 4, 4], [3, 2], [1, 1], [1] * 4, [1]]
    largest = groups[1][0]
    # np.bool, np.int and np.float, one after the other
    assert largest.boolean_mask().sum() > 0
    assert largest.contours_matrix.dtype.kind == "i"
    assert largest.surface_area > 0


def test_its_volume_is_that_of_the_files(tmp_path: Path) -> None:
    (scan,) = read_scans([UID_0709])
    stored = ramp(len(scan.z_mm), 2, 3)
    folder = tmp_path / scan.patient_id / scan.study_uid / scan.series_uid
    write_series(folder, scan.z_mm, stored, uid=scan.series_uid, StudyInstanceUID=scan.study_uid, InstanceNumber=1)
    volume = pylidc_scan(UID_0709, tmp_path).to_volume(verbose=False)
    assert np.array_equal(volume.transpose(2, 0, 1), stored - 1024)  # [row, column, slice]


def test_images_without_a_folder_are_refused_with_a_remedy() -> None:
    with pytest.raises(LungtlError, match=r"has no DICOM folder; call load_pylidc\(FOLDER\)"):
        pylidc_scan(UID_0709).to_volume(verbose=False)


def test_numpy_and_the_home_folder_stay_as_they_were(tmp_path: Path) -> None:
    code = (
        "import sys, numpy; from tests.sources.pylidc_compat import load_pylidc; before = set(vars(numpy));"
        "pylidc = load_pylidc(); pylidc.query(pylidc.Scan).first().cluster_annotations(verbose=False);"
        "assert not hasattr(numpy, 'int') and not hasattr(numpy, 'float');"
        "assert 'int' not in vars(numpy) and 'pkg_resources' not in sys.modules"
    )
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "MPLCONFIGDIR": str(tmp_path / "matplotlib")}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment)
    assert list(home.iterdir()) == []


def test_pkg_resources_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pkg_resources", sys)
    load_pylidc()
    assert sys.modules["pkg_resources"] is sys


@pytest.mark.real
@needs("lidc_dicom_0063.tar.xz")
def test_its_volume_of_lidc_0063_is_lungtls(tmp_path_factory: pytest.TempPathFactory) -> None:
    from lungtl.sources.ct.series import find_series
    from lungtl.sources.ct.volume import read_volume

    root = unpack("lidc_dicom_0063.tar.xz", tmp_path_factory)
    (series,), _ = find_series(root)
    theirs = pylidc_scan(UID_0063, root).to_volume(verbose=False)
    assert np.array_equal(theirs.transpose(2, 0, 1), read_volume(series).hu)
