"""A folder of DICOM -> one HU volume with 1 mm slices: lungtl compared with common readers.

Each contender runs in its own process, so that imports and memory stay separate:
`python benchmarks/reading.py CONTENDER FOLDER` prints its seconds and its peak memory as JSON.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

REPEATS = {"lungtl": 7, "pydicom_decode": 7}  # fast ones: more repeats; the fastest counts
FEW = 2


def lungtl(folder: Path) -> Callable[[], Any]:
    """What `prepare` does with a series."""
    import pydicom.pixels  # noqa: F401  not timed, like the other readers' imports

    from lungtl.sources.ct.series import find_series
    from lungtl.sources.ct.volume import read_volume, resample_z

    return lambda: resample_z(read_volume(find_series(folder)[0][0])).hu


def pydicom_decode(folder: Path) -> Callable[[], Any]:
    """The bare decode, without order, HU or resampling."""
    import pydicom
    import pydicom.pixels

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return lambda: [pydicom.dcmread(file).pixel_array for file in files]


def simpleitk(folder: Path) -> Callable[[], Any]:
    """GDCM's series reader, then linear resampling."""
    sitk: Any = importlib.import_module("SimpleITK")

    def work() -> Any:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = reader.Execute()
        x, y, z = image.GetSize()
        dx, dy, dz = image.GetSpacing()
        size = (x, y, int((z - 1) * dz + 1e-6) + 1)
        resampled = sitk.Resample(image, size, sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), (dx, dy, 1.0),
                                  image.GetDirection())  # fmt: skip
        return sitk.GetArrayFromImage(resampled).astype(np.int16)

    return work


def monai(folder: Path) -> Callable[[], Any]:
    """LoadImage and Spacing."""
    transforms: Any = importlib.import_module("monai.transforms")

    def work() -> Any:
        image = transforms.LoadImage(image_only=True, ensure_channel_first=True)(str(folder))
        return transforms.Spacing(pixdim=(-1.0, -1.0, 1.0), mode="bilinear")(image).numpy().astype(np.int16)

    return work


def pylidc_and_scipy(folder: Path) -> Callable[[], Any]:
    """Pylidc's `to_volume`, then `scipy.ndimage.zoom`; requires pylidc's own folder layout."""
    import pydicom
    from scipy.ndimage import zoom

    from tests.sources.pylidc_compat import load_pylidc

    first = pydicom.dcmread(next(p for p in sorted(folder.rglob("*")) if p.is_file()), stop_before_pixels=True)
    root = Path(tempfile.mkdtemp())
    series = root / first.PatientID / first.StudyInstanceUID / first.SeriesInstanceUID
    series.parent.mkdir(parents=True)
    series.symlink_to(folder.resolve())
    pylidc: Any = load_pylidc(root)
    scan = pylidc.query(pylidc.Scan).filter(pylidc.Scan.series_instance_uid == first.SeriesInstanceUID).one()

    def work() -> Any:
        volume = scan.to_volume(verbose=False)
        return zoom(volume, (1, 1, scan.slice_spacing), order=1)

    return work


CONTENDERS = {f.__name__: f for f in (lungtl, pydicom_decode, simpleitk, monai, pylidc_and_scipy)}
NEEDS = {"lungtl": "lungtl", "pydicom_decode": "pydicom", "simpleitk": "SimpleITK", "monai": "monai",
         "pylidc_and_scipy": "pylidc"}  # fmt: skip


def compare(folder: Path) -> list[dict[str, str]]:
    """All contenders on one series, one row each: seconds, their ratio to lungtl's, and the memory used.

    Contenders whose package is missing are listed and omitted.
    """
    here = [name for name, package in NEEDS.items() if importlib.util.find_spec(package)]
    for name in NEEDS.keys() - set(here):
        print(f"{name} is not measured: pip install 'lungtl[bench]'")
    results = {name: _in_process(name, folder) for name in here}
    ours = results["lungtl"]["seconds"]
    return [
        {"contender": name, "seconds": f"{r['seconds']:.3f}", "ratio": f"{r['seconds'] / ours:.2f}",
         "peak_mb": f"{r['peak_mb']:.0f}", "output_mb": f"{r['output_mb']:.0f}"}
        for name, r in results.items()
    ]  # fmt: skip


def _in_process(contender: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, contender, str(folder), str(REPEATS.get(contender, FEW))]
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure one contender."""
    contender, folder, repeats = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    work = CONTENDERS[contender](folder)
    before, seconds = _resident_mb(), []
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - start)
        size = getattr(result, "nbytes", 0) / 1e6
        del result
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    print(json.dumps({"seconds": min(seconds), "peak_mb": peak - before, "output_mb": size}))


def _resident_mb() -> float:
    """The process's memory now; its peak so far on systems without /proc."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
