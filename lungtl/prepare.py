"""`python -m lungtl.prepare dataset=...`: prepare the store of a dataset (or label tables) and print its folder."""

from __future__ import annotations

import sys
from pathlib import Path

from lungtl.settings import command_line, parts
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.schema import PrepareConfig


def run(config: PrepareConfig) -> None:
    """Prepare the store or the label tables, and print the folder."""
    from lungtl.data.store.opening import open_store

    if config.labels_only:
        print(label_tables(config))
        return
    store = open_store(config)
    if altered := store.altered_files():
        raise LungtlError(
            f"{store.path}: {len(altered)} files were altered, the first is {altered[0]}; remove that folder, then "
            "rerun the same command"
        )
    print(store.path)


def label_tables(config: PrepareConfig) -> Path:
    """Write the label tables of LIDC-IDRI; print their counts on standard error and return the folder."""
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from lungtl.data.store.files import explain_write_errors
    from lungtl.sources.lidc import LidcSource
    from lungtl.sources.lidc_tables import COUNTS_HEADER, counts, write_labels

    source = parts.build(config.dataset)
    if not isinstance(source, LidcSource):
        raise UsageError(
            f"labels_only=true with dataset {source.name}: only LIDC-IDRI has labels without images; add dataset=lidc"
        )
    with explain_write_errors(config.data_dir / "labels"):
        folder = write_labels(source.labels, config.data_dir)
    table = Table(*COUNTS_HEADER, title=source.labels.describe(), title_justify="left")
    for row in counts(pd.read_parquet(folder / "nodules.parquet"), pd.read_parquet(folder / "scans.parquet")):
        table.add_row(*row)
    Console(stderr=True, markup=False, emoji=False, width=None if sys.stderr.isatty() else 120).print(table)
    return folder


if __name__ == "__main__":
    command_line.main("prepare", PrepareConfig, run)
