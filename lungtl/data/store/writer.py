"""Turn a source into a store: content-addressed, atomic, resumable, over worker processes.

Every finished bag leaves its voxel file and a part. A killed run leaves parts behind and the next run does the rest;
the tables and, last of all, the manifest are written when every part is there.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lungtl.data.store.files import writing
from lungtl.data.store.parts import PARTS, VOXELS, read_part, remove_temporary_files
from lungtl.data.store.reader import MANIFEST, STORE_FORMAT, Store
from lungtl.data.store.tables import finish
from lungtl.data.store.workers import write_parts
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import Inventory, Refusal, Source, fingerprint
from lungtl.sources.progress import bar

log = logging.getLogger(__name__)


def prepare(source: Source, data_dir: Path, workers: int = 1) -> Store:
    """Write the source's store, or open it when it is there.

    Args:
        source: what to prepare.
        data_dir: stores live in its folder `stores`.
        workers: processes that decode in parallel.

    Raises:
        LungtlError: nothing in the source can be used, or data_dir cannot be written (a full disk, a read-only
            folder), or a worker process died.
    """
    known = data_dir / "stores" / ".known"
    request = fingerprint([STORE_FORMAT, source.name, source.recipe(), source.value_range, source.listing()])
    memo = known / f"{request}.txt"
    folder = _remembered(memo)
    if folder is not None:
        return Store(folder)
    with writing(known):
        known.mkdir(parents=True, exist_ok=True)
    with _locked(known / f"{request}.lock", source.name):
        folder = _remembered(memo)  # by the process that this one waited for
        if folder is None:
            folder = _prepare(source, data_dir / "stores", workers)
            with writing(memo):
                memo.write_text(folder.name)
    return Store(folder)


def _remembered(memo: Path) -> Path | None:
    """The finished store that an unchanged input was prepared into.

    A memo that a kill cut short names no store.
    """
    if not memo.is_file():
        return None
    folder = memo.parents[1] / memo.read_text()
    return folder if (folder / MANIFEST).is_file() and not (folder / PARTS).exists() else None


def _prepare(source: Source, stores: Path, workers: int) -> Path:
    inventory = source.inventory(workers)
    if not inventory.items:
        nothing = Refusal(source.name, "it is empty", "check its options")
        first = inventory.refusals[0] if inventory.refusals else nothing
        raise LungtlError(
            f"nothing in dataset {source.name} can be used ({len(inventory.refusals)} refused; {first.item}: "
            f"{first.reason}); {first.remedy}"
        )
    address = fingerprint([STORE_FORMAT, inventory.fingerprint, source.recipe(), source.value_range])
    folder = stores / f"{source.name}-{address[:12]}"
    # Two inputs with the same content have one store but not one memo, so this needs a lock of its own.
    with _locked(Path(f"{folder}.lock"), folder.name):
        if not (folder / MANIFEST).is_file():
            _write_bags(source, inventory, folder, workers)
            finish(source, inventory, folder)
        if (folder / PARTS).exists():  # also when a kill came after the manifest
            with writing(folder / PARTS):
                shutil.rmtree(folder / PARTS)
    return folder


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    """One process at a time; a second one waits, and says so. The system drops the lock of a killed process."""
    lock = FileLock(path)
    with writing(path):
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
    """Load what no earlier run has finished, and show how it goes."""
    for name in (PARTS, VOXELS):
        with writing(folder / name):
            (folder / name).mkdir(parents=True, exist_ok=True)
    remove_temporary_files(folder)
    parts = {item.bag_id: read_part(folder, item.bag_id) for item in inventory.items}
    missing = [item for item in inventory.items if parts[item.bag_id] is None]
    done, total = len(parts) - len(missing), len(parts)
    if done:
        log.info("%s: %d of %d bags are there already", folder.name, done, total)
    refused = len(inventory.refusals) + sum(part is not None and "refused" in part for part in parts.values())
    written, start = 0, time.monotonic()
    with bar(f"preparing {source.name}") as progress:
        progress(done, total, f"{refused} refused")
        for size in write_parts(source, missing, folder, workers):
            done += 1
            refused += size is None
            written += size or 0
            rate = written / 1e6 / (time.monotonic() - start)
            progress(done, total, f"{refused} refused, {rate:.1f} MB/s")
