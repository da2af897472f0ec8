"""Finish a preparation: write quarantine, tables and finally the manifest from the parts."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lungtl.data.store.files import whole_file
from lungtl.data.store.parts import PARTS, read_part
from lungtl.data.store.reader import MANIFEST, QUARANTINE, STORE_FORMAT, checksum
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import Inventory, Source, fingerprint


def finish(source: Source, inventory: Inventory, folder: Path) -> None:
    """Write everything but the voxels; raises LungtlError if all bags were refused or one has disappeared."""
    parts: list[dict[str, Any]] = []
    for item in inventory.items:
        part = read_part(folder, item.bag_id)
        if part is None:
            raise LungtlError(f"{folder} was changed during preparation (bag {item.bag_id}); rerun the same command")
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
    hashes = {
        f"{name}.parquet": _write(folder, f"{name}.parquet", table.to_parquet(index=False))
        for name, table in tables.items()
    }
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
        "fingerprint": fingerprint(hashes),
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
    nodules = [row for part in parts for row in part["nodules"]]
    if nodules:
        tables["nodules"] = pd.DataFrame(nodules)
    return tables


def _write(folder: Path, name: str, content: bytes) -> str:
    """Write a file of the store; return its SHA-256.

    These few files are synced to disk before they get their names, so that after a power failure a manifest is complete
    or absent. Voxel files are not (see `parts`), but `Store.voxels` refuses a truncated file.
    """
    with whole_file(folder / name, folder / PARTS) as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()
