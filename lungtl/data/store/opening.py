"""The store of a dataset that a config names."""

from __future__ import annotations

import logging
import os

from lungtl.data.store.reader import Store
from lungtl.data.store.writer import prepare
from lungtl.settings import parts
from lungtl.settings.schema import DatasetConfig

log = logging.getLogger(__name__)


def open_store(config: DatasetConfig) -> Store:
    """The dataset's store; prepares it when it is missing."""
    workers = os.cpu_count() or 1 if config.workers == "auto" else config.workers
    source = parts.build(config.dataset)
    store = prepare(source, config.data_dir, workers)
    labels = store.manifest["bag_labels"]
    log.info(
        "%s: %d bags of %d patients (%s positive, %s negative, %s unlabelled), %d slices, %d refused%s",
        store.name, store.manifest["n_bags"], store.manifest["n_patients"], labels.get("1", 0), labels.get("0", 0),
        labels.get("-1", 0), store.manifest["n_slices"], store.manifest["n_refused"],
        f" (see {store.path / 'quarantine.jsonl'})" if store.manifest["n_refused"] else "",
    )  # fmt: skip
    return store
