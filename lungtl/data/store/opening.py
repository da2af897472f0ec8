"""Open the store of a dataset config."""

from __future__ import annotations

import logging
import os

from lungtl.data.store.reader import Store
from lungtl.data.store.writer import prepare
from lungtl.settings import parts
from lungtl.settings.schema import DatasetConfig

log = logging.getLogger(__name__)


def open_store(config: DatasetConfig) -> Store:
    """Open the dataset's store; prepare it first if it does not exist."""
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
    return store
