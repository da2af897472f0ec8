"""Open the store of a dataset config."""

from __future__ import annotations

import logging
import os

import pandas as pd

from lungtl.data.store.reader import Store
from lungtl.data.store.writer import prepare
from lungtl.settings import parts
from lungtl.settings.schema import DatasetConfig
from lungtl.sources.ct.units import HU_COLUMNS, unit_warnings

log = logging.getLogger(__name__)


def open_store(config: DatasetConfig) -> Store:
    """Open the dataset's store, prepared first if it does not exist; warn of doubtful units and equal bags."""
    workers = os.cpu_count() or 1 if config.workers == "auto" else config.workers
    store = prepare(parts.build(config.dataset), config.data_dir, workers)
    manifest = store.manifest
    labels = manifest["bag_labels"]
    unlabelled = f", {labels['-1']} unlabelled" if labels.get("-1") else ""
    n, patients = manifest["n_bags"], manifest["n_patients"]
    log.info(
        "%s: %d case%s (%s positive%s) of %d patient%s, %d slices", store.name, n, "s" * (n != 1), labels.get("1", 0),
        unlabelled, patients, "s" * (patients != 1), manifest["n_slices"],
    )  # fmt: skip
    if manifest["n_refused"]:
        log.info("%d refused; the reasons are in %s", manifest["n_refused"], store.path / "quarantine.jsonl")
    for doubt in doubts(store.bags):
        log.warning("%s", doubt)
    return store


def doubts(bags: pd.DataFrame) -> list[str]:
    """One line for each doubt about a store's bags: improbable units, and equal voxels under two ids."""
    columns = [name for name in ("bag_id", "rescale_type", *HU_COLUMNS) if name in bags]
    rows = bags[columns].itertuples(index=False) if "rescale_type" in columns else ()
    lines = unit_warnings(dict(zip(columns, row, strict=True)) for row in rows)
    equal = bags.loc[bags["voxels_sha256"].duplicated(keep=False), ["bag_id", "voxels_sha256"]]
    if len(equal):
        one, other = equal.loc[equal["voxels_sha256"] == equal["voxels_sha256"].iloc[0], "bag_id"].iloc[:2]
        lines.append(
            f"{one} and {other} have the same voxels ({len(equal)} such cases); if they are one scan under two ids, "
            "label only one of them"
        )
    return lines
