"""What a model's training bags were like, and which probabilities it gave to others: the bundle's `ranges.json`.

A prediction compares its input with the former (`lungtl.runs.input_warnings`), and is shown next to the latter.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lungtl.bundle.files import RANGES, damaged
from lungtl.data.splits import EXTRA
from lungtl.data.store.reader import Store
from lungtl.evaluation.estimate import STRICT
from lungtl.sources.ct.elements import PHANTOM as MANUFACTURER

NUMBERS = ("z_extent_mm", "n_slices", "field_mm", "pixel_spacing_mm", "native_spacing_mm", "slice_thickness_mm",
           "lungs_cm2")  # fmt: skip
"""What is measured of a bag, see `measures`."""
CODES = ("kernel", "contrast", "manufacturer")
"""What the header of a bag's series states, in `lungtl.sources.ct.acquisition`'s words; "" if it states nothing."""
PHANTOM = "phantom"


@dataclass(frozen=True, config=STRICT)
class Quantiles:
    """Minimum, maximum and quantiles of `n` values; p05 is the 5 % quantile."""

    n: Annotated[int, Field(ge=1)]
    min: float
    p05: float
    p10: float
    p25: float
    p50: float
    p75: float
    p90: float
    p95: float
    max: float

    @classmethod
    def of(cls, values: ArrayLike) -> Quantiles | None:
        """Of the finite values; None if there are none."""
        finite = np.asarray(values, np.float64)
        finite = finite[np.isfinite(finite)]
        if not len(finite):
            return None
        found = np.quantile(finite, (0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1))
        return cls(len(finite), *(float(f"{value:.6g}") for value in found))


@dataclass(frozen=True, config=STRICT)
class Ranges:
    """The content of ranges.json."""

    n: int  # training bags
    source: str  # kind of dataset: phantom, lidc, dicom, ...
    numbers: dict[str, Quantiles]  # of `NUMBERS`, over the training bags; without those that no bag knows
    codes: dict[str, dict[str, int]]  # of `CODES`: code -> training bags; without those that the store lacks
    scores: dict[str, dict[str, Quantiles]]  # val and test -> "0" and "1", the label -> the model's probabilities

    @property
    def n_phantoms(self) -> int:
        """How many of them were synthetic scans, also if read as `dataset=dicom`."""
        return self.n if self.source == PHANTOM else self.codes.get("manufacturer", {}).get(MANUFACTURER, 0)

    @property
    def phantom(self) -> bool:
        """Whether it was trained on synthetic scans."""
        return self.n_phantoms > 0


def measures(
    shape: tuple[int, int, int], z_mm: ArrayLike, spacing_mm: Sequence[float], details: Mapping[Any, Any]
) -> dict[str, Any]:
    """What is compared with the training bags; NaN or "" where it is unknown.

    Args:
        shape: of the voxels that the network gets, [S, H, W].
        z_mm: [S], of the slices.
        spacing_mm: (row, column).
        details: of the series, columns of `bags.parquet`.
    """
    row_mm, column_mm = spacing_mm
    return {
        "z_extent_mm": float(np.ptp(np.asarray(z_mm, np.float64))),
        "n_slices": float(shape[0]),
        "field_mm": max(shape[1] * row_mm, shape[2] * column_mm),
        "pixel_spacing_mm": max(row_mm, column_mm),
        **{name: float(details.get(name, np.nan)) for name in NUMBERS[4:]},
        **{name: code if isinstance(code := details.get(name), str) else "" for name in CODES},
    }


def training_ranges(store: Store, split: pd.DataFrame, scores: Mapping[str, pd.DataFrame]) -> Ranges:
    """Describe the training bags of a store.

    Args:
        store: of the training.
        split: bag_id, split.
        scores: val and test -> label, probability.
    """
    training = split.loc[split["split"].isin(["train", EXTRA]), "bag_id"]
    bags = store.bags[store.bags["bag_id"].isin(training)]
    rows = []
    for _, bag in bags.iterrows():
        shape = (int(bag["n_slices"]), int(bag["height"]), int(bag["width"]))
        spacing_mm = (bag["row_spacing_mm"], bag["column_spacing_mm"])
        details = {str(name): value for name, value in bag.items()}
        rows.append(measures(shape, store.z_mm(bag["bag_id"]), spacing_mm, details))
    table = pd.DataFrame(rows)
    recipe = store.manifest["recipe"]
    return Ranges(
        n=len(bags),
        source=str(recipe.get("kind", store.manifest["source"])),
        numbers={name: found for name in NUMBERS if (found := Quantiles.of(table[name])) is not None},
        codes={name: dict(Counter(table[name])) for name in CODES if name in bags},
        scores={side: score_quantiles(table) for side, table in scores.items()},
    )


def score_quantiles(table: pd.DataFrame) -> dict[str, Quantiles]:
    """Label -> quantiles of the probabilities: label, probability."""
    found = {str(label): Quantiles.of(own) for label, own in table.groupby("label")["probability"]}
    return {label: quantiles for label, quantiles in found.items() if quantiles is not None}


def merge_ranges(members: Sequence[Ranges | None], scores: Mapping[str, pd.DataFrame]) -> Ranges | None:
    """Of an ensemble, whose members were trained on parts of one store; None unless all members have them.

    What any member was trained on is within the merged ranges; the other quantiles are means over the members.

    Args:
        members: of the members.
        scores: val and test -> label, probability.
    """
    known = [member for member in members if member is not None]
    if not known or len(known) < len(members):
        return None
    return Ranges(
        n=max(member.n for member in known),
        source=known[0].source,
        numbers={
            name: _widest([member.numbers[name] for member in known if name in member.numbers])
            for name in NUMBERS
            if any(name in member.numbers for member in known)
        },
        codes={
            name: {
                code: max(member.codes.get(name, {}).get(code, 0) for member in known)
                for code in sorted({code for member in known for code in member.codes.get(name, {})})
            }
            for name in known[0].codes
        },
        scores={side: score_quantiles(table) for side, table in scores.items()},
    )


def _widest(members: Sequence[Quantiles]) -> Quantiles:
    inner = ("p05", "p10", "p25", "p50", "p75", "p90", "p95")
    values: dict[str, Any] = {name: float(np.mean([getattr(member, name) for member in members])) for name in inner}
    values |= {"n": max(m.n for m in members), "min": min(m.min for m in members), "max": max(m.max for m in members)}
    return Quantiles(**values)


def write_ranges(ranges: Ranges, folder: Path) -> None:
    """Write ranges.json into a bundle."""
    (folder / RANGES).write_text(json.dumps(asdict(ranges), indent=2, allow_nan=False), encoding="utf-8")


def read_ranges(folder: Path) -> Ranges | None:
    """Read what `write_ranges` wrote; None where a bundle has none, as the first ones.

    Raises:
        LungtlError: the file is damaged.
    """
    path = folder / RANGES
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Ranges).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([RANGES, *map(str, first["loc"])])
        raise damaged(folder, ValueError(f"{where}: {first['msg']}")) from error
