"""The data folder: space, the tracking store, and every prepared store's bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from lungtl.doctor.finding import Finding, fails, passes, warns
from lungtl.settings.errors import LungtlError

LEAST_FREE_GB = 5.0


def free_gb(folder: Path) -> float:
    """Free space where a folder is or will be."""
    existing = next(f for f in (folder, *folder.parents) if f.is_dir())
    return shutil.disk_usage(existing).free / 1e9


def check_space(data_dir: Path) -> Iterator[Finding]:
    """Room for runs and small stores; what a dataset needs is compared where its root is given."""
    free = free_gb(data_dir)
    what = f"{free:.0f} GB free for {data_dir}"
    yield passes(what) if free >= LEAST_FREE_GB else warns(what, f"free some, or set data_dir; wanted {LEAST_FREE_GB}")


def check_tracking(data_dir: Path) -> Iterator[Finding]:
    """Whether MLflow's database opens."""
    from lungtl.tracking.backend import DATABASE, open_client

    if not (data_dir / DATABASE).is_file():
        yield passes("tracking: no runs yet")
        return
    try:
        open_client(None, data_dir)
    except LungtlError as error:
        yield fails(str(error), f"restore {data_dir / DATABASE}, or move it away to begin a new one")
    else:
        yield passes("the tracking store opens")


def check_stores(data_dir: Path) -> Iterator[Finding]:
    """Every store: finished, readable, and byte for byte as it was prepared."""
    from lungtl.data.store.reader import MANIFEST, Store

    for folder in sorted((data_dir / "stores").glob("[!.]*/")):
        remedy = f"remove {folder} and prepare it again"
        if not (folder / MANIFEST).is_file():
            yield warns(f"store {folder.name} is unfinished", f"run the same prepare again, or remove {folder}")
            continue
        try:
            store = Store(folder)
            altered = store.altered_files()
        except LungtlError as error:
            what, _, todo = str(error).rpartition("; ")
            yield fails(f"store {folder.name}: {what}", todo)
            continue
        if altered:
            yield fails(f"store {folder.name}: {len(altered)} files altered, the first {altered[0]}", remedy)
        else:
            yield passes(f"store {folder.name}: {store.manifest['n_bags']} bags, as prepared")
