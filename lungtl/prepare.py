"""`python -m lungtl.prepare dataset=...`: turn a dataset into a store (or label tables) and print the folder."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lungtl import cli, plugins
from lungtl.config import DatasetConfig, PrepareConfig
from lungtl.errors import UsageError

if TYPE_CHECKING:
    from lungtl.store.reader import Store

log = logging.getLogger(__name__)


def open_store(config: DatasetConfig) -> Store:
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
    print(label_tables(config) if config.labels_only else open_store(config).path, file=sys.stdout)


def label_tables(config: PrepareConfig) -> Path:
    """The folder of LIDC-IDRI's label tables; shows their counts on standard error."""
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from lungtl.sources.lidc import LidcSource
    from lungtl.sources.lidc_tables import COUNTS_HEADER, counts, write_labels
    from lungtl.store.files import writing

    source = plugins.build(config.dataset)
    if not isinstance(source, LidcSource):
        raise UsageError(
            f"labels_only=true with dataset {source.name}: only LIDC-IDRI has labels apart from its images; "
            "add dataset=lidc"
        )
    with writing(config.data_dir / "labels"):
        folder = write_labels(source.labels, config.data_dir)
    table = Table(*COUNTS_HEADER, title=source.labels.describe(), title_justify="left")
    for row in counts(pd.read_parquet(folder / "nodules.parquet"), pd.read_parquet(folder / "scans.parquet")):
        table.add_row(*row)
    Console(stderr=True, width=None if sys.stderr.isatty() else 120).print(table)
    return folder


if __name__ == "__main__":
    cli.main("prepare", PrepareConfig, run)
