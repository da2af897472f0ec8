"""The data folder: free space, tracking database and prepared stores."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from lungtl.data.store.reader import MANIFEST, Store
from lungtl.doctor.finding import Finding, verdict
from lungtl.settings.errors import LungtlError

LEAST_FREE_GB = 5.0


def free_gb(folder: Path) -> float:
    """Free space on the disk of a folder, which may not exist yet."""
    existing = next(f for f in (folder, *folder.parents) if f.is_dir())
    return shutil.disk_usage(existing).free / 1e9


def check_space(data_dir: Path) -> Iterator[Finding]:
    """Space for runs and small stores; see `check_root` for the space of a dataset."""
    free = free_gb(data_dir)
    remedy = f"free some space (expected {LEAST_FREE_GB:g} GB), or set data_dir to a larger disk"
    yield verdict(free >= LEAST_FREE_GB, f"{free:.0f} GB free for {data_dir}", remedy, "WARN")


def check_tracking(data_dir: Path) -> Iterator[Finding]:
    """MLflow's database can be opened."""
    from lungtl.tracking.backend import DATABASE, open_client  # imports MLflow, which takes seconds

    if not (data_dir / DATABASE).is_file():
        yield Finding("PASS", "tracking: no runs yet")
        return
    try:
        open_client(None, data_dir)
    except LungtlError as error:
        yield Finding("FAIL", str(error), f"restore {data_dir / DATABASE}, or move it away to create a new one")
    else:
        yield Finding("PASS", "tracking: the database can be opened")


def check_stores(data_dir: Path) -> Iterator[Finding]:
    """Every store is finished, readable and unchanged since preparation."""
    for folder in sorted((data_dir / "stores").glob("[!.]*/")):
        if not (folder / MANIFEST).is_file():
            remedy = f"rerun the same lungtl.prepare command, or remove {folder}"
            yield Finding("WARN", f"store {folder.name} is unfinished", remedy)
            continue
        try:
            store = Store(folder)
            altered = store.altered_files()
        except LungtlError as error:
            problem, _, remedy = str(error).rpartition("; ")
            yield Finding("FAIL", f"store {folder.name}: {problem}", remedy)
            continue
        state = f"{store.manifest['n_bags']} cases, unchanged"
        if altered:
            state = f"{len(altered)} files changed, the first is {altered[0]}"
        yield verdict(not altered, f"store {folder.name}: {state}", f"remove {folder} and prepare it again")
