"""Open a store: `manifest.json`, a row a bag, a row a slice, one memory-mapped voxel file a bag."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungtl.errors import LungtlError

if TYPE_CHECKING:
    import pandas as pd

STORE_FORMAT = 1
MANIFEST = "manifest.json"


class Store:
    """A complete store.

    Args:
        path: its folder.

    Raises:
        LungtlError: no finished store lies there, or one of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        manifest = self.path / MANIFEST
        if not manifest.is_file():
            raise LungtlError(f"{path} is not a finished store (no {MANIFEST}); run python -m lungtl.prepare")
        self.manifest: dict[str, Any] = json.loads(manifest.read_text())
        if self.manifest.get("format") != STORE_FORMAT:
            raise LungtlError(
                f"{path} has store format {self.manifest.get('format')}, this lungtl reads {STORE_FORMAT}; "
                "prepare it again"
            )

    @property
    def fingerprint(self) -> str:
        """Hash of the store's content (tables and voxels)."""
        return str(self.manifest["fingerprint"])

    @property
    def name(self) -> str:
        """The folder's name: source and content address."""
        return self.path.name

    @property
    def value_range(self) -> tuple[int, int] | None:
        """None when voxels are HU, else the range of grey values."""
        value_range = self.manifest["value_range"]
        return None if value_range is None else (value_range[0], value_range[1])

    @cached_property
    def bags(self) -> pd.DataFrame:
        """One row a bag, indexed 0..n-1: bag_id, patient_id, bag_label, split, n_slices, diameter_mm, ..."""
        return self._table("bags")

    @cached_property
    def slices(self) -> pd.DataFrame:
        """One row a slice: bag_id, index, z_mm, slice_label."""
        return self._table("slices")

    @cached_property
    def nodules(self) -> pd.DataFrame | None:
        """One row a nodule where the source knows them: bag_id, nodule, malignancy, n_readers, z_min, z_max, ..."""
        return self._table("nodules") if (self.path / "nodules.parquet").is_file() else None

    @cached_property
    def _rows(self) -> dict[str, slice]:
        """bag_id -> its rows in `slices`."""
        ends = self.bags["n_slices"].cumsum()
        return {
            str(bag_id): slice(int(end - n), int(end))
            for bag_id, n, end in zip(self.bags["bag_id"], self.bags["n_slices"], ends, strict=True)
        }

    @cached_property
    def _files(self) -> dict[str, str]:
        return dict(zip(self.bags["bag_id"], self.bags["voxels"], strict=True))

    def voxels(self, bag_id: str) -> NDArray[np.int16]:
        """int16 [S, H, W], memory-mapped and read-only."""
        array: NDArray[np.int16] = np.load(self.path / self._files[bag_id], mmap_mode="r", allow_pickle=False)
        return array

    def slice_labels(self, bag_id: str) -> NDArray[np.int8]:
        """int8 [S]: -1 unknown, 0 non-nodule, 1 benign, 2 malignant."""
        return self.slices["slice_label"].to_numpy(np.int8)[self._rows[bag_id]]

    def z_mm(self, bag_id: str) -> NDArray[np.float64]:
        """float64 [S]; NaN where unknown."""
        return self.slices["z_mm"].to_numpy(np.float64)[self._rows[bag_id]]

    def altered_files(self) -> list[str]:
        """Voxel files and tables whose bytes are no longer those that were prepared (reads everything)."""
        expected = dict(zip(self.bags["voxels"], self.bags["voxels_sha256"], strict=True))
        expected |= self.manifest["tables"]
        return [
            name
            for name, digest in expected.items()
            if not (self.path / name).is_file() or sha256(self.path / name) != digest
        ]

    def _table(self, name: str) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self.path / f"{name}.parquet")


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
