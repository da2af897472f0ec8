"""The data folder: free space, tracking database, prepared stores, feature cache and runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from lungtl.data.cache_folder import CacheFolder
from lungtl.data.store.files import check_checksums
from lungtl.data.store.reader import MANIFEST, Store
from lungtl.doctor.finding import Finding, verdict
from lungtl.evaluation.formatting import plural
from lungtl.runs.folder import BUNDLE, RECORD
from lungtl.settings.errors import LungtlError
from lungtl.settings.typed import assigned, typed
from lungtl.sources.files import free_bytes

LEAST_FREE_GB = 5.0


def check_space(data_dir: Path) -> Iterator[Finding]:
    """Space for runs and small stores; see `check_root` for the space of a dataset."""
    free = free_bytes(data_dir) / 1e9
    remedy = f"free some space (expected {LEAST_FREE_GB:g} GB), or set data_dir to a larger disk"
    yield verdict(free >= LEAST_FREE_GB, f"{free:.0f} GB free for {data_dir}", remedy, "WARN")


def check_tracking(data_dir: Path) -> Iterator[Finding]:
    """MLflow's database can be opened."""
    from lungtl.tracking.backend import DATABASE, open_client  # imports MLflow, which takes seconds
    from lungtl.tracking.unsent import find_unsent, is_recorded_now

    if not (data_dir / DATABASE).is_file():
        yield Finding("PASS", "tracking: no runs yet")
        return
    try:
        open_client(None, data_dir)
    except LungtlError as error:
        yield Finding("FAIL", str(error), f"restore {data_dir / DATABASE}, or move it away to create a new one")
    else:
        yield Finding("PASS", "tracking: the database can be opened")
    if ended := [folder for folder in find_unsent(data_dir) if not is_recorded_now(folder)]:
        what = f"tracking: {plural(len(ended), 'run')} ended without telling MLflow, the first is {ended[0]}"
        yield Finding("WARN", what, typed("sync", assigned("data_dir", data_dir)))


def check_stores(data_dir: Path) -> Iterator[Finding]:
    """Every store is finished, readable and unchanged since preparation."""
    for folder in sorted((data_dir / "stores").glob("[!.]*/")):
        if not (folder / MANIFEST).is_file():
            remedy = f"rerun the same prepare command, or remove {folder}"
            yield Finding("WARN", f"store {folder.name} is unfinished", remedy)
            continue
        try:
            store = Store(folder)
            altered = store.altered_files()
        except LungtlError as error:
            problem, _, remedy = str(error).rpartition("; ")
            yield Finding("FAIL", f"store {folder.name}: {problem}", remedy)
            continue
        state = f"{plural(store.manifest['n_bags'], 'case')}, unchanged"
        if altered:
            state = f"{plural(len(altered), 'file')} changed, the first is {altered[0]}"
        yield verdict(not altered, f"store {folder.name}: {state}", f"remove {folder} and prepare it again")


def check_cache(data_dir: Path) -> Iterator[Finding]:
    """Every entry of the feature cache is as it was written."""
    entries = CacheFolder(data_dir).entries()
    damaged = [entry for entry in entries if not CacheFolder.is_intact(entry.folder)]
    for entry in damaged:
        yield Finding(
            "WARN", f"cache entry {entry.folder.name} was altered", f"remove {entry.folder}: it is only a copy"
        )
    if entries and not damaged:
        yield Finding("PASS", f"feature cache: {len(entries)} {'entry' if len(entries) == 1 else 'entries'}, unchanged")


def check_runs(data_dir: Path) -> Iterator[Finding]:
    """The split, the checkpoints and the bundle of every run are as they were written."""
    from lungtl.runs.record import read_own_split
    from lungtl.training.checkpoints import BEST, CHECKPOINTS, LAST, check_intact  # imports Lightning

    records = sorted([*data_dir.glob(f"runs/*/{RECORD}"), *data_dir.glob(f"sweeps/*/*/{RECORD}")])
    altered = 0
    for folder in (record.parent for record in records):
        checks: list[tuple[Callable[[Path], object], Path]] = [
            (read_own_split, folder),
            (check_checksums, folder / BUNDLE),
        ]
        checks += [(check_intact, path) for name in (LAST, BEST) if (path := folder / CHECKPOINTS / name).is_file()]
        for check, path in checks:
            try:
                check(path)
            except (LungtlError, OSError) as error:
                altered += 1
                problem, _, remedy = str(error).rpartition("; ")
                yield Finding("FAIL", problem or str(error), remedy or "train the run again")
    if records and not altered:
        yield Finding("PASS", f"runs: {len(records)}, unchanged")
