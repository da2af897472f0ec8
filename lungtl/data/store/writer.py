"""Prepare a store from a source: content-addressed, atomic, resumable, in parallel.

Every finished bag has a voxel file and a part. After a killed run, the next run loads the remaining bags; the tables
and finally the manifest are written when all parts exist.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from lungtl.data.store.files import explain_write_errors
from lungtl.data.store.parts import PARTS, VOXELS, read_part, remove_temporary_files, write_part
from lungtl.data.store.reader import MANIFEST, STORE_FORMAT, Store
from lungtl.data.store.tables import finish
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import Inventory, Refusal, Source, fingerprint
from lungtl.sources.parallel import parallel
from lungtl.sources.progress import bar

log = logging.getLogger(__name__)
FEW_BAGS = 8  # fewer are loaded before worker processes have started


def prepare(source: Source, data_dir: Path, workers: int = 1) -> Store:
    """Open the store of a source in `data_dir/stores`; write it first if it does not exist.

    Raises LungtlError if nothing in the source can be used, a file cannot be written or a worker process died.
    """
    known = data_dir / "stores" / ".known"
    request = fingerprint([STORE_FORMAT, source.name, source.recipe(), source.value_range, source.listing()])
    memo = known / f"{request}.txt"
    folder = _prepared_before(memo)
    if folder is not None:
        return Store(folder)
    with explain_write_errors(known):
        known.mkdir(parents=True, exist_ok=True)
    with _locked(known / f"{request}.lock", source.name):
        folder = _prepared_before(memo)  # by the process that this one waited for
        if folder is None:
            folder = _prepare(source, data_dir / "stores", workers)
            with explain_write_errors(memo):
                memo.write_text(folder.name)
    return Store(folder)


def _prepared_before(memo: Path) -> Path | None:
    """The finished store of an unchanged input; None if there is none, or if a kill truncated the memo."""
    if not memo.is_file():
        return None
    folder = memo.parents[1] / memo.read_text()
    return folder if (folder / MANIFEST).is_file() and not (folder / PARTS).exists() else None


def _prepare(source: Source, stores: Path, workers: int) -> Path:
    inventory = source.inventory(workers)
    if not inventory.items:
        empty = Refusal(source.name, "it is empty", "check its options")
        first = inventory.refusals[0] if inventory.refusals else empty
        raise LungtlError(
            f"nothing in dataset {source.name} can be used ({len(inventory.refusals)} refused; {first.item}: "
            f"{first.reason}); {first.remedy}"
        )
    address = fingerprint([STORE_FORMAT, inventory.fingerprint, source.recipe(), source.value_range])
    folder = stores / f"{source.name}-{address[:12]}"
    # Two inputs with the same content share a store but not a memo, so the store has its own lock.
    with _locked(Path(f"{folder}.lock"), folder.name):
        if not (folder / MANIFEST).is_file():
            _write_bags(source, inventory, folder, workers)
            finish(source, inventory, folder)
        if (folder / PARTS).exists():  # also after a kill that followed the manifest
            with explain_write_errors(folder / PARTS):
                shutil.rmtree(folder / PARTS)
    return folder


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """Hold a lock, which the system releases if the process is killed; a second process waits and logs it."""
    lock = FileLock(path)
    with explain_write_errors(path):
        try:
            lock.acquire(blocking=False)
        except Timeout:
            log.warning("%s is being prepared by another process; waiting for it", name)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write_bags(source: Source, inventory: Inventory, folder: Path, workers: int) -> None:
    """Load the bags that no earlier run has finished, with a progress bar."""
    for name in (PARTS, VOXELS):
        with explain_write_errors(folder / name):
            (folder / name).mkdir(parents=True, exist_ok=True)
    remove_temporary_files(folder)
    parts = {item.bag_id: read_part(folder, item.bag_id) for item in inventory.items}
    missing = [item for item in inventory.items if parts[item.bag_id] is None]
    done, total = len(parts) - len(missing), len(parts)
    if done:
        log.info("%s: %d of %d bags were prepared before", folder.name, done, total)
    refused = len(inventory.refusals) + sum(part is not None and "refused" in part for part in parts.values())
    written, start = 0, time.monotonic()
    with bar(f"preparing {source.name}") as progress:
        progress(done, total, f"{refused} refused")
        load = partial(write_part, source, folder=folder)
        workers = workers if len(missing) >= FEW_BAGS else 1
        for size in parallel(load, missing, workers, f"preparing {source.name}"):
            done += 1
            refused += size is None
            written += size or 0
            rate = written / 1e6 / (time.monotonic() - start)
            progress(done, total, f"{refused} refused, {rate:.1f} MB/s")
