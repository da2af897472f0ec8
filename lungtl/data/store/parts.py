"""Load one bag and write it as a voxel file and a part (a JSON file with its table rows).

Parts and voxel files are not synced to disk one by one, which for thousands of small bags would take longer than
loading them. After a power failure, files of the last half minute may be truncated, so a bag counts as finished only if
its part is readable and its voxel file has the size stated there.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungtl.data.store.files import TEMPORARY, whole_file
from lungtl.settings.errors import Refused
from lungtl.sources.base import Bag, Item, Source

PARTS = "parts"
VOXELS = "voxels"


def write_part(source: Source, item: Item, folder: Path) -> int | None:
    """Load one bag and write its voxel file and part; the part of a refused bag contains the reason.

    Returns the size of the voxel file in bytes; None if the bag was refused.
    """
    try:
        bag = source.load(item)
    except Refused as refused:
        part: dict[str, Any] = {"refused": {"item": item.bag_id, "reason": refused.reason, "remedy": refused.remedy}}
    else:
        file = f"{VOXELS}/{_file_name(bag.bag_id)}.npy"
        size, digest = _write_voxels(bag.voxels, folder / file, folder / PARTS)
        part = _rows(bag, file, size, digest)
    with whole_file(_part_path(folder, item.bag_id), folder / PARTS) as out:
        out.write(json.dumps(part).encode())
    return part.get("voxels_bytes")


def read_part(folder: Path, bag_id: str) -> dict[str, Any] | None:
    """Read a part; None if the bag is not finished."""
    try:
        part: dict[str, Any] = json.loads(_part_path(folder, bag_id).read_bytes())
        if "bag" in part and (folder / part["bag"]["voxels"]).stat().st_size != part["voxels_bytes"]:
            return None
    except (FileNotFoundError, ValueError):
        return None
    return part


def remove_temporary_files(folder: Path) -> None:
    """Remove unfinished files of killed runs; the caller holds the store's lock."""
    for file in (folder / PARTS).glob(f"*{TEMPORARY}"):
        file.unlink()


def _write_voxels(voxels: NDArray[np.int16], path: Path, scratch: Path) -> tuple[int, str]:
    """Write an .npy file; return its size and SHA-256."""
    voxels = np.ascontiguousarray(voxels)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(voxels))
    with whole_file(path, scratch) as file:
        # Not np.save: on a full disk it raises an OSError without errno.
        file.write(header.getvalue())
        file.write(voxels.data)
    digest = hashlib.sha256(header.getvalue())
    digest.update(voxels.data)
    return header.tell() + voxels.nbytes, digest.hexdigest()


def _rows(bag: Bag, file: str, size: int, digest: str) -> dict[str, Any]:
    count, height, width = bag.voxels.shape
    row_mm, column_mm = bag.pixel_spacing_mm
    return {
        "bag": {
            "bag_id": bag.bag_id, "patient_id": bag.patient_id, "bag_label": bag.bag_label, "split": bag.split,
            "n_slices": count, "height": height, "width": width, "row_spacing_mm": row_mm,
            "column_spacing_mm": column_mm, "votes": bag.votes, "diameter_mm": bag.diameter_mm, **bag.details,
            "voxels": file, "voxels_sha256": digest,
        },
        "voxels_bytes": size,
        "z_mm": bag.z_mm.tolist(),
        "slice_labels": bag.slice_labels.tolist(),
        "nodules": [{"bag_id": bag.bag_id, **row} for row in bag.nodules],
        "outlines": [{"bag_id": bag.bag_id, **row} for row in bag.outlines],
    }  # fmt: skip


def _part_path(folder: Path, bag_id: str) -> Path:
    return folder / PARTS / f"{_file_name(bag_id)}.json"


def _file_name(bag_id: str) -> str:
    """The bag's id if it is a safe file name, otherwise its hash: also for capitals, which some disks fold."""
    if re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,120}", bag_id):
        return bag_id
    return hashlib.sha256(bag_id.encode()).hexdigest()[:32]
