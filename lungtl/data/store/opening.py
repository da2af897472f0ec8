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
    log.info(
        "%s: %d cases of %d patients (%s positive, %s negative, %s unlabelled), %d slices, %d refused%s",
        store.name, manifest["n_bags"], manifest["n_patients"], labels.get("1", 0), labels.get("0", 0),
        labels.get("-1", 0), manifest["n_slices"], manifest["n_refused"],
        f" (see {store.path / 'quarantine.jsonl'})" if manifest["n_refused"] else "",
    )  # fmt: skip
    return store
