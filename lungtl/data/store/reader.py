"""Read a store: `manifest.json`, tables of bags and slices, one memory-mapped voxel file per bag."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError
from lungtl.settings.typed import typed
from lungtl.sources.base import fingerprint, sha256
from lungtl.sources.progress import bar

STORE_FORMAT = 3
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.jsonl"
LARGE_BYTES = 1_000_000_000  # hashing less takes a second or two and shows no progress bar


class _Voxels(NamedTuple):
    """Voxel file of a bag, its pixel spacing, and its rows in `slices`."""

    file: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float]
    rows: slice
    number: int  # of the bag
    sha256: str  # of the file


class Store:
    """A complete store.

    Opening reads the manifest only. Damage is detected where it would be used: a table and a voxel file are compared
    with their checksums when they are first read, `altered_files` does so for all of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.manifest = self._read_manifest()

    def __getstate__(self) -> dict[str, Any]:
        """For spawned processes, which check what they read themselves."""
        return {key: value for key, value in self.__dict__.items() if key != "_intact"}

    @property
    def fingerprint(self) -> str:
        """Hash of the tables and voxels, without outlines."""
        return str(self.manifest["fingerprint"])

    @property
    def name(self) -> str:
        """Name of the folder: source and content hash."""
        return self.path.name

    @property
    def value_range(self) -> tuple[int, int] | None:
        """None if voxels are HU, otherwise the range of grey values."""
        value_range = self.manifest["value_range"]
        return None if value_range is None else (value_range[0], value_range[1])

    @cached_property
    def bags(self) -> pd.DataFrame:
        """One row per bag, indexed 0..n-1: bag_id, patient_id, bag_label, split, n_slices, diameter_mm, ..."""
        return self._table("bags")

    @cached_property
    def slices(self) -> pd.DataFrame:
        """One row per slice: bag_id, index, z_mm, slice_label."""
        return self._table("slices")

    @cached_property
    def nodules(self) -> pd.DataFrame | None:
        """One row per nodule if the source has them: bag_id, nodule, malignancy, n_readers, z_min, z_max, ..."""
        return self._table("nodules") if "nodules.parquet" in self.manifest["tables"] else None

    def outlines(self, bag_id: str) -> list[dict[str, Any]]:
        """The readers' outlines of a bag's nodules, see `lidc_outlines.Row`; none if they are unknown."""
        if "outlines.parquet" not in self.manifest["tables"]:
            return []
        rows = self._table("outlines", [("bag_id", "==", bag_id)]).to_dict("records")
        return [{str(name): value for name, value in row.items()} for row in rows]

    @cached_property
    def _voxels(self) -> dict[str, _Voxels]:
        """By bag_id."""
        rows: Iterable[Any] = self.bags.assign(end=self.bags["n_slices"].cumsum()).itertuples()
        return {
            str(bag.bag_id): _Voxels(
                bag.voxels,
                (int(bag.n_slices), int(bag.height), int(bag.width)),
                (float(bag.row_spacing_mm), float(bag.column_spacing_mm)),
                slice(int(bag.end - bag.n_slices), int(bag.end)),
                number,
                bag.voxels_sha256,
            )
            for number, bag in enumerate(rows)
        }

    @cached_property
    def _intact(self) -> mmap.mmap:
        """A byte per bag: 1 once its voxels were compared with their checksum.

        The memory is shared with forked loader processes, so that each file is hashed once and not in every epoch.
        """
        return mmap.mmap(-1, len(self.bags))

    def voxels(self, bag_id: str) -> NDArray[np.int16]:
        """int16 [S, H, W], memory-mapped and read-only; raises LungtlError if the file is missing or damaged."""
        file, shape, *_, number, digest = self._voxels[bag_id]
        path = self.path / file
        try:
            array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r")
            size = path.stat().st_size
        except OSError as error:
            raise self._damaged(file, f"cannot be read ({error.strerror})") from error
        except Exception as error:  # numpy's header parser raises unrelated types
            raise self._damaged(file, "is not an .npy file, or is truncated") from error
        if array.dtype != np.int16 or array.shape != shape:
            raise self._damaged(file, f"contains {array.dtype} {array.shape}, expected int16 {shape}")
        if array.offset + array.nbytes != size:
            raise self._damaged(file, f"has {size} bytes, expected {array.offset + array.nbytes}")
        if not self._intact[number]:
            if sha256(path) != digest:
                raise self._damaged(file, "was altered")
            self._intact[number] = 1
        return array

    def spacing_mm(self, bag_id: str) -> tuple[float, float]:
        """Distance between rows, and between columns; NaN if unknown."""
        return self._voxels[bag_id].spacing_mm

    def slice_labels(self, bag_id: str) -> NDArray[np.int8]:
        """int8 [S]: -1 unknown, 0 non-nodule, 1 benign, 2 malignant."""
        return self._slice_labels[self._voxels[bag_id].rows]

    def z_mm(self, bag_id: str) -> NDArray[np.float64]:
        """float64 [S]; NaN if unknown."""
        return self._z_mm[self._voxels[bag_id].rows]

    @cached_property
    def _slice_labels(self) -> NDArray[np.int8]:
        return self.slices["slice_label"].to_numpy(np.int8)

    @cached_property
    def _z_mm(self) -> NDArray[np.float64]:
        return self.slices["z_mm"].to_numpy(np.float64)

    def altered_files(self) -> list[str]:
        """Files that are missing, unreadable or changed since preparation (reads everything).

        Voxel files are skipped if `bags.parquet`, which contains their hashes, is one of them.
        """
        expected = {**self.manifest["tables"], QUARANTINE: self.manifest["quarantine"]}
        altered = self._altered(expected)
        if "bags.parquet" not in altered:
            altered += self._altered(dict(zip(self.bags["voxels"], self.bags["voxels_sha256"], strict=True)))
        try:
            unchanged = self._read_manifest() == self.manifest
        except LungtlError:
            unchanged = False
        return altered if unchanged else [*altered, MANIFEST]

    def _altered(self, expected: dict[str, str]) -> list[str]:
        paths = {name: self.path / name for name in expected}
        large = sum(path.stat().st_size for path in paths.values() if path.is_file()) > LARGE_BYTES
        altered = []
        with bar(f"checking {self.name}") as progress:
            for done, (name, path) in enumerate(paths.items(), start=1):
                try:
                    intact = sha256(path) == expected[name]
                except OSError:  # missing or unreadable
                    intact = False
                if not intact:
                    altered.append(name)
                if large:
                    progress(done, len(paths), f"{len(altered)} altered")
        return altered

    def _read_manifest(self) -> dict[str, Any]:
        try:
            manifest = json.loads((self.path / MANIFEST).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            problem = f"is not a finished store (no {MANIFEST})"
            raise LungtlError(f"{self.path} {problem}; run {typed('prepare')}") from None
        except OSError as error:
            raise self._damaged(MANIFEST, f"cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise self._damaged(MANIFEST, "is not JSON") from error
        if not isinstance(manifest, dict) or type(manifest.get("format")) is not int:
            raise self._damaged(MANIFEST, "is not a manifest")
        if manifest["format"] != STORE_FORMAT:
            raise LungtlError(
                f"{self.path} has store format {manifest['format']}, this version of lungtl reads {STORE_FORMAT}; "
                "remove it and prepare it again"
            )
        # A checksum of everything, so that no value has to be checked where it is used.
        if manifest.get("checksum") != checksum(manifest):
            raise self._damaged(MANIFEST, "was changed")
        return manifest

    def _table(self, name: str, filters: list[tuple[str, str, str]] | None = None) -> pd.DataFrame:
        file = f"{name}.parquet"
        try:
            content = (self.path / file).read_bytes()
        except OSError as error:
            raise self._damaged(file, f"cannot be read ({error.strerror})") from error
        # Tables are small: hashing takes less time than parsing, and an intact table has all columns and rows.
        if hashlib.sha256(content).hexdigest() != self.manifest["tables"][file]:
            raise self._damaged(file, "was changed")
        return pd.read_parquet(io.BytesIO(content), filters=filters)

    def _damaged(self, file: str, problem: str) -> LungtlError:
        return LungtlError(f"{self.path / file} {problem}; remove {self.path} and prepare it again")


def checksum(manifest: dict[str, Any]) -> str:
    """Hash of a manifest without this hash."""
    return fingerprint({key: value for key, value in manifest.items() if key != "checksum"})
