"""Your own scans: a folder of DICOM series and a table of scan labels. Slice labels are unknown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt

from lungtl.settings.errors import LungtlError
from lungtl.sources.base import UNKNOWN, Bag, Inventory, Item, Refusal, Source, fingerprint
from lungtl.sources.ct.encoding import decoders
from lungtl.sources.ct.prepare import SLICE_STEP_MM, prepare_series
from lungtl.sources.ct.series import MAX_GB, find_series
from lungtl.sources.files import listing_hash, read_csv

COLUMNS = ("series_uid", "patient_id", "label")


@dataclass(frozen=True)
class DicomSource(Source):
    """DICOM series labelled by a table."""

    root: str  # folder with the series, in any layout
    table: str  # CSV file, see `read_table`
    max_gap_mm: float = 10.0  # refuse a series with a larger gap between neighbouring slices
    crop: Literal["none", "lungs"] = "none"  # crop all slices to one square around the lungs
    max_gb: Annotated[float, Gt(0)] = MAX_GB  # refuse a series that needs more memory, native and at 1 mm
    follow_links: bool = False  # read what links out of the folder lead to
    name: str = "dicom"  # first part of the store's name

    slice_step_mm = SLICE_STEP_MM

    def recipe(self) -> dict[str, Any]:
        limit = {} if self.max_gb == MAX_GB else {"max_gb": self.max_gb}
        return {"kind": "dicom", "max_gap_mm": self.max_gap_mm, "crop": self.crop, **limit}

    def listing(self) -> str:
        for option, path, expected in (("root", self._root, "a folder"), ("table", self._table, "a CSV file")):
            if not path.exists():
                raise LungtlError(f"dataset.{option}={path} does not exist; set dataset.{option} to {expected}")
        return fingerprint([listing_hash([self._root, self._table], self.follow_links), decoders()])

    def inventory(self, workers: int = 1) -> Inventory:
        rows = read_table(self._table)
        found, refusals = find_series(self._root, workers=workers, max_gb=self.max_gb, follow_links=self.follow_links)
        refused = {refusal.item for refusal in refusals}
        missing = sorted(set(rows) - {series.uid for series in found} - refused)
        if missing:
            raise LungtlError(
                f"{self._table.name}: {len(missing)} of {len(rows)} series_uid are not in {self._root}, the first is "
                f"{missing[0]}; remove the rows or add the series"
            )
        items = []
        for series in found:
            if series.uid in rows:
                row = rows[series.uid]
                items.append(Item(series.uid, fingerprint([series.fingerprint, row]), (series, row)))
            else:
                refusals.append(Refusal(series.uid, f"not in {self._table.name}", "add a row to use this series"))
        return Inventory(tuple(items), tuple(refusals))

    def load(self, item: Item) -> Bag:
        series, row = item.content
        volume, details = prepare_series(series, self.max_gap_mm, self.crop)
        return Bag(
            bag_id=series.uid,
            patient_id=row["patient_id"],
            voxels=volume.hu,
            z_mm=volume.z_mm,
            slice_labels=np.full(len(volume.hu), UNKNOWN, dtype=np.int8),
            bag_label=row["label"],
            pixel_spacing_mm=series.pixel_spacing_mm,
            split=row["split"],
            details=details,
        )

    @property
    def _root(self) -> Path:
        return Path(self.root).expanduser()

    @property
    def _table(self) -> Path:
        return Path(self.table).expanduser()


def read_table(path: Path) -> dict[str, dict[str, Any]]:
    """Read and check the label table: series_uid -> {patient_id, label (-1, 0, 1), split (str or None)}.

    Columns are series_uid, patient_id (use pseudonyms), label (0, 1, or empty for unknown) and optionally split (train,
    val, test). All labelled scans of a patient must have the same label.
    """
    columns, lines = read_csv(path)
    missing = [column for column in COLUMNS if column not in columns]
    if missing:
        found, expected = ", ".join(columns), ", ".join(COLUMNS)
        raise LungtlError(f"{path.name} has no column {missing[0]} (it has {found}); expected {expected}")
    rows: dict[str, dict[str, Any]] = {}
    patient_labels: dict[str, int] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{path.name} line {number}"
        uid, patient, text = (line[column] for column in COLUMNS)
        if not uid or not patient:
            raise LungtlError(f"{where}: series_uid and patient_id must not be empty; fill them in")
        if uid in rows:
            raise LungtlError(f"{where}: series_uid {uid} is repeated; keep one row per series")
        if text not in {"", "0", "1"}:
            raise LungtlError(f"{where}: label is '{text}'; expected 0, 1 or empty (unknown)")
        label = int(text) if text else UNKNOWN
        if label != UNKNOWN and patient_labels.setdefault(patient, label) != label:
            raise LungtlError(f"{where}: patient {patient} has labels 0 and 1; correct one of the rows")
        rows[uid] = {"patient_id": patient, "label": label, "split": line.get("split") or None}
    return rows
