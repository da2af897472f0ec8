"""`python -m lungtl.prepare dataset=...`: turn a dataset into a store and print the store's folder."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from lungtl import cli, plugins
from lungtl.config import PrepareConfig

if TYPE_CHECKING:
    from lungtl.store.reader import Store

log = logging.getLogger(__name__)


def open_store(config: PrepareConfig) -> Store:
    """The dataset's store; prepares it when it is missing."""
    from lungtl.store.writer import prepare

    workers = os.cpu_count() or 1 if config.workers == "auto" else config.workers
    source = plugins.build(config.dataset)
    store = prepare(source, config.data_dir, workers)
    labels = store.manifest["bag_labels"]
    log.info(
        "%s: %d bags of %d patients (%s positive, %s negative, %s unlabelled), %d slices, %d refused%s",
        store.name, store.manifest["n_bags"], store.manifest["n_patients"], labels.get("1", 0), labels.get("0", 0),
        labels.get("-1", 0), store.manifest["n_slices"], store.manifest["n_refused"],
        f" (see {store.path / 'quarantine.jsonl'})" if store.manifest["n_refused"] else "",
    )  # fmt: skip
    return store


def run(config: PrepareConfig) -> None:
    """Prepare, and print where."""
    print(open_store(config).path, file=sys.stdout)


if __name__ == "__main__":
    cli.main("prepare", PrepareConfig, run)
