"""Prepare a store from a source: content-addressed, atomic, resumable, in parallel.

Every finished bag has a voxel file and a part. After a killed run, the next one loads the remaining bags; tables and
manifest are written when all parts exist.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from lungtl.data.store.files import explain_write_errors, whole_file
from lungtl.data.store.parts import PARTS, VOXELS, read_part, remove_temporary_files, write_part
from lungtl.data.store.reader import MANIFEST, QUARANTINE, STORE_FORMAT, Store, checksum
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import Inventory, Refusal, Source, fingerprint
from lungtl.sources.files import DATA_DIR
from lungtl.sources.parallel import parallel
from lungtl.sources.progress import bar

log = logging.getLogger(__name__)
FEW_BAGS = 8  # fewer are loaded before worker processes have started


def prepare(source: Source, data_dir: Path, workers: int = 1) -> Store:
    """Open the store of a source in `data_dir/stores`; write it first if it does not exist.

    Raises LungtlError if nothing in the source can be used, a file cannot be written or a worker process died.
    """
    known = data_dir / DATA_DIR
    if not known.is_dir():  # before the source is listed, which skips a data folder in it
        with explain_write_errors(known):
            known.mkdir(parents=True, exist_ok=True)
    request = fingerprint([STORE_FORMAT, source.name, source.recipe(), source.value_range, source.listing()])
    memo = known / f"{request}.txt"
    folder = _prepared_before(memo)
    if folder is not None:
        return Store(folder)
    with _locked(known / f"{request}.lock", source.name):
        folder = _prepared_before(memo)  # by the process that this one waited for
        if folder is None:
            folder = _prepare(source, data_dir / "stores", workers)
            with explain_write_errors(memo):
                memo.write_text(folder.name, encoding="utf-8")
    return Store(folder)


def _prepared_before(memo: Path) -> Path | None:
    """The finished store of an unchanged input; None if there is none, or if a kill truncated the memo."""
    if not memo.is_file():
        return None
    folder = memo.parents[1] / memo.read_text(encoding="utf-8", errors="replace")
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
            _finish(source, inventory, folder)
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
        log.info("%s: %d of %d cases were prepared before", folder.name, done, total)
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


def _finish(source: Source, inventory: Inventory, folder: Path) -> None:
    """Write everything but the voxels; raises LungtlError if all bags were refused or one has disappeared."""
    parts: list[dict[str, Any]] = []
    for item in inventory.items:
        part = read_part(folder, item.bag_id)
        if part is None:
            raise LungtlError(f"{folder} was changed during preparation ({item.bag_id}); rerun the same command")
        parts.append(part)
    refusals = [vars(refusal) for refusal in inventory.refusals] + [p["refused"] for p in parts if "refused" in p]
    quarantine_hash = _write(folder, QUARANTINE, "".join(json.dumps(row) + "\n" for row in refusals).encode())
    parts = [part for part in parts if "bag" in part]
    if not parts:
        first = refusals[-len(inventory.items)]
        shutil.rmtree(folder / PARTS)  # the next run retries
        raise LungtlError(
            f"all {len(inventory.items)} items of dataset {source.name} were refused ({first['item']}: "
            f"{first['reason']}); {first['remedy']}; all reasons are in {folder / QUARANTINE}"
        )
    tables = _tables(parts)
    contents = {f"{name}.parquet": table.to_parquet(index=False) for name, table in tables.items()}
    hashes = {name: _write(folder, name, content) for name, content in contents.items()}
    bags = tables["bags"]
    manifest = {
        "format": STORE_FORMAT,
        "source": source.name,
        "source_fingerprint": inventory.fingerprint,
        "recipe": source.recipe(),
        "value_range": source.value_range,
        "slice_step_mm": source.slice_step_mm,
        "n_bags": len(bags),
        "n_slices": len(tables["slices"]),
        "n_patients": int(bags["patient_id"].nunique()),
        "n_refused": len(refusals),
        "bag_labels": {str(k): int(v) for k, v in bags["bag_label"].value_counts().sort_index().items()},
        "tables": hashes,
        "quarantine": quarantine_hash,
        # Outlines are only looked at: a store without them, as of earlier versions, has the same fingerprint.
        "fingerprint": fingerprint({name: digest for name, digest in hashes.items() if name != "outlines.parquet"}),
    }
    manifest["checksum"] = checksum(manifest)
    _write(folder, MANIFEST, json.dumps(manifest, indent=2, sort_keys=True).encode())


def _tables(parts: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    bags = pd.DataFrame([part["bag"] for part in parts])
    bags["split"] = bags["split"].astype("string")
    tables = {
        "bags": bags.astype({"bag_label": "int8"}),
        "slices": pd.DataFrame(
            {
                "bag_id": np.repeat([p["bag"]["bag_id"] for p in parts], [p["bag"]["n_slices"] for p in parts]),
                "index": np.concatenate([np.arange(p["bag"]["n_slices"]) for p in parts]),
                "z_mm": np.concatenate([np.array(p["z_mm"], dtype=np.float64) for p in parts]),
                "slice_label": np.concatenate([np.array(p["slice_labels"], dtype=np.int8) for p in parts]),
            }
        ),
    }
    for name in ("nodules", "outlines"):
        rows = [row for part in parts for row in part.get(name, ())]  # an earlier version's part has no outlines
        if rows:
            tables[name] = pd.DataFrame(rows)
    return tables


def _write(folder: Path, name: str, content: bytes) -> str:
    """Write a file, synced to disk before it gets its name: complete or absent after a power failure; its SHA-256."""
    with whole_file(folder / name, folder / PARTS) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()
