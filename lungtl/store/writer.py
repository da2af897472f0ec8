"""Turn a source into a store: content-addressed, atomic, resumable, over worker processes.

Every finished bag leaves its voxel file and a part (a JSON file with its rows). A killed run leaves parts behind
and the next run does the rest; the tables and, last of all, the manifest are written when every part is there.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout

from lungtl.errors import LungtlError, Refused
from lungtl.progress import bar
from lungtl.sources.base import Bag, Inventory, Item, Refusal, Source, fingerprint
from lungtl.store.reader import MANIFEST, STORE_FORMAT, Store, sha256

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
PARTS = "parts"
FEW_ITEMS = 8  # fewer are done faster than worker processes start


def prepare(source: Source, data_dir: Path, workers: int = 1) -> Store:
    """Write the source's store, or open it when it is there.

    Args:
        source: what to prepare.
        data_dir: stores live in its folder `stores`.
        workers: processes that decode in parallel.

    Raises:
        LungtlError: nothing in the source can be used, or the disk is full.
    """
    stores = data_dir / "stores"
    memo = (
        stores
        / ".known"
        / f"{fingerprint([STORE_FORMAT, source.name, source.recipe(), source.value_range, source.listing()])}.txt"
    )
    if memo.is_file() and (stores / memo.read_text() / MANIFEST).is_file():
        return Store(stores / memo.read_text())
    inventory = source.inventory(workers)
    if not inventory.items:
        first = (
            inventory.refusals[0] if inventory.refusals else Refusal(source.name, "it is empty", "check its options")
        )
        raise LungtlError(
            f"nothing in dataset {source.name} can be used ({len(inventory.refusals)} refused; {first.item}: "
            f"{first.reason}); {first.remedy}"
        )
    address = fingerprint([STORE_FORMAT, inventory.fingerprint, source.recipe(), source.value_range])
    folder = stores / f"{source.name}-{address[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            if not (folder / MANIFEST).is_file():
                _load_all(source, inventory, folder, workers)
                _finish(source, inventory, folder)
            shutil.rmtree(folder / PARTS, ignore_errors=True)  # here, for a kill may have come after the manifest
            _write(memo, folder.name.encode())
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise LungtlError(f"no space left for {folder}; free some and run the same command again") from error
        raise
    return Store(folder)


def _lock(folder: Path) -> FileLock:
    """One preparation of a store at a time; a second one waits, and says so."""
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(blocking=False)
        lock.release()
    except Timeout:
        log.warning("%s is being prepared by another process; waiting for it", folder.name)
    return lock


def _load_all(source: Source, inventory: Inventory, folder: Path, workers: int) -> None:
    (folder / PARTS).mkdir(exist_ok=True)
    (folder / "voxels").mkdir(exist_ok=True)
    todo = [item for item in inventory.items if not _part_path(folder, item.bag_id).is_file()]
    done = len(inventory.items) - len(todo)
    if done:
        log.info("%s: %d of %d bags are there already", folder.name, done, len(inventory.items))
    with bar(f"preparing {source.name}") as progress:
        for count, _ in enumerate(_run(source, todo, folder, workers), start=done + 1):
            progress(count, len(inventory.items))


def _run(source: Source, todo: list[Item], folder: Path, workers: int) -> Iterator[None]:
    if workers <= 1 or len(todo) < FEW_ITEMS:
        for item in todo:
            _load_one(source, item, folder)
            yield
        return
    # spawn, not fork: the parent may hold threads (progress bars, BLAS) that a forked child would deadlock on
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=workers, mp_context=context) as pool:
        futures = [pool.submit(_load_one, source, item, folder) for item in todo]
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _load_one(source: Source, item: Item, folder: Path) -> None:
    """Load one bag and leave its voxel file and part; a refused bag leaves a part that says so."""
    try:
        bag = source.load(item)
    except Refused as refused:
        part: dict[str, Any] = {"refused": {"item": item.bag_id, "reason": refused.reason, "remedy": refused.remedy}}
    else:
        voxels = f"voxels/{_file_name(bag.bag_id)}.npy"
        temporary = folder / f"{voxels}.tmp"
        with temporary.open("wb") as file:
            np.save(file, np.ascontiguousarray(bag.voxels), allow_pickle=False)
        digest = sha256(temporary)
        temporary.replace(folder / voxels)
        part = _rows(bag, voxels, digest)
    _write(_part_path(folder, item.bag_id), json.dumps(part).encode())


def _rows(bag: Bag, voxels: str, digest: str) -> dict[str, Any]:
    count, height, width = bag.voxels.shape
    row_mm, column_mm = bag.pixel_spacing_mm
    return {
        "bag": {
            "bag_id": bag.bag_id, "patient_id": bag.patient_id, "bag_label": bag.bag_label, "split": bag.split,
            "n_slices": count, "height": height, "width": width, "row_spacing_mm": row_mm,
            "column_spacing_mm": column_mm, "diameter_mm": bag.diameter_mm, **bag.details,
            "voxels": voxels, "voxels_sha256": digest,
        },
        "z_mm": bag.z_mm.tolist(),
        "slice_labels": bag.slice_labels.tolist(),
        "nodules": [{"bag_id": bag.bag_id, **row} for row in bag.nodules],
    }  # fmt: skip


def _finish(source: Source, inventory: Inventory, folder: Path) -> None:
    """Write tables, quarantine and manifest from the parts."""
    import pandas as pd

    parts = [json.loads(_part_path(folder, item.bag_id).read_text()) for item in inventory.items]
    refusals = [vars(refusal) for refusal in inventory.refusals] + [p["refused"] for p in parts if "refused" in p]
    _write(folder / "quarantine.jsonl", "".join(json.dumps(row) + "\n" for row in refusals).encode())
    parts = [part for part in parts if "bag" in part]
    if not parts:
        first = refusals[0]
        shutil.rmtree(folder / PARTS)  # the next run tries again
        raise LungtlError(
            f"all {len(inventory.items)} items of dataset {source.name} were refused ({first['item']}: "
            f"{first['reason']}); {first['remedy']}; all reasons are in {folder / 'quarantine.jsonl'}"
        )
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
    nodules = [row for part in parts for row in part["nodules"]]
    if nodules:
        tables["nodules"] = pd.DataFrame(nodules)
    hashes = {f"{name}.parquet": _write_table(table, folder / f"{name}.parquet") for name, table in tables.items()}
    manifest = {
        "format": STORE_FORMAT,
        "source": source.name,
        "source_fingerprint": inventory.fingerprint,
        "recipe": source.recipe(),
        "value_range": source.value_range,
        "slice_step_mm": source.slice_step_mm,
        "n_bags": len(parts),
        "n_slices": len(tables["slices"]),
        "n_patients": int(bags["patient_id"].nunique()),
        "n_refused": len(refusals),
        "bag_labels": {str(k): int(v) for k, v in bags["bag_label"].value_counts().sort_index().items()},
        "tables": hashes,
        "fingerprint": fingerprint(hashes),
    }
    _write(folder / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True).encode())


def _write_table(table: pd.DataFrame, path: Path) -> str:
    temporary = path.with_suffix(".tmp")
    table.to_parquet(temporary, index=False)
    temporary.replace(path)
    return sha256(path)


def _write(path: Path, content: bytes) -> None:
    """Write a small file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _part_path(folder: Path, bag_id: str) -> Path:
    return folder / PARTS / f"{_file_name(bag_id)}.json"


def _file_name(bag_id: str) -> str:
    """The bag's id where it is a safe file name, its hash where it is not."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}", bag_id):
        return bag_id
    return hashlib.sha256(bag_id.encode()).hexdigest()[:32]
