"""Your own crops: an .npz file with the images and a .csv file with ids, patients and labels."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError, Refused
from lungtl.settings.nearest import nearest
from lungtl.sources.base import BENIGN, MALIGNANT, UNKNOWN, Bag, Inventory, Item, Refusal, Source, fingerprint
from lungtl.sources.density import PERCENTILE, central_density
from lungtl.sources.files import LABELS, finite, listing_hash, read_csv
from lungtl.sources.lidc_labels import reader_votes
from lungtl.sources.npz import read_array, read_images

SPLITS = ("train", "val", "test")
INT16 = (-32768, 32767)
TAKEN = {
    "bag_id", "patient_id", "bag_label", "split", "n_slices", "height", "width", "row_spacing_mm", "column_spacing_mm",
    "votes", "diameter_mm", "density", "voxels", "voxels_sha256", "probability", "logit",
}  # fmt: skip
"""Columns of a store, or of predictions, that no covariate may replace."""


@dataclass(frozen=True)
class Row:
    """One checked line of the table; index is the position of its image in the array."""

    index: int
    bag_id: str
    patient_id: str
    label: int
    split: str | None
    hu_offset: float
    diameter_mm: float
    pixel_spacing_mm: float
    z_mm: float
    votes: float
    covariates: dict[str, float]


@dataclass(frozen=True)
class ArraysSource(Source):
    """Bags from arrays: images [N, H, W] are bags of one slice, images [N, S, H, W] are bags of S slices."""

    images: str  # the .npz file
    table: str  # the .csv file: a header, then one line per bag
    name: str = "arrays"  # first part of the store's name
    images_key: str | None = None  # array of images; required only if several have 3 or 4 dimensions
    npz_id_key: str | None = None  # array of ids [N]; without it, images and lines have the same order
    id_column: str = "id"  # the bag's id
    patient_column: str = "patient_id"  # the patient's (pseudonymous) id
    label_column: str = "label"  # 0 or 1 (or false, true); empty if unknown
    split_column: str | None = None  # train, val or test; unlabelled bags may have other values
    hu_offset_column: str | None = None  # HU = image + offset
    diameter_column: str | None = None  # the nodule's diameter in mm, empty if unknown
    pixel_spacing_column: str | None = None  # mm, the same for rows and columns, empty if unknown
    rating_columns: list[str] = field(
        default_factory=list
    )  # of malignancy, 1 to 5, one per reader; 0 or empty if not rated
    z_column: str | None = None  # position of a one-slice bag in mm, empty if unknown
    covariate_columns: list[str] = field(default_factory=list)  # numbers that are kept for `covariates`
    hu: bool = True  # images are HU (after the offset), rounded; false: integer grey values
    low: int = 0  # the lowest possible grey value, if not HU
    high: int = 255  # the highest possible grey value, if not HU

    def __post_init__(self) -> None:
        if self.hu:
            return
        if not INT16[0] <= self.low < self.high <= INT16[1]:
            raise LungtlError(f"dataset.low={self.low} and dataset.high={self.high} are not a range of 16-bit values")
        object.__setattr__(self, "value_range", (self.low, self.high))

    def recipe(self) -> dict[str, Any]:
        ignored = {"images", "table", "name"} | ({"low", "high"} if self.hu else set())
        return {
            "kind": "arrays",
            "density": PERCENTILE,
            **{key: value for key, value in asdict(self).items() if key not in ignored},
        }

    def listing(self) -> str:
        return listing_hash([self._file("images"), self._file("table")])

    def inventory(self, workers: int = 1) -> Inventory:
        """Check each line of the table, match it with its image and hash both."""
        lines = self._lines()
        images = self._images()
        if self.z_column and images.ndim == 4 and images.shape[1] > 1:
            raise LungtlError(
                f"dataset.z_column={self.z_column} is one position per line, but images have {images.shape[1]} slices; "
                "omit dataset.z_column"
            )
        rows: list[Row] = []
        refusals: list[Refusal] = []
        for index, line in zip(self._image_indices(lines, len(images)), lines, strict=True):
            try:
                rows.append(self._row(index, line))
            except Refused as refused:
                refusals.append(Refusal(line[self.id_column], refused.reason, refused.remedy))
        if self.hu and rows:
            self._check_hu(images, rows)
        items = []
        for row in rows:
            image = images[row.index]
            columns = {key: value for key, value in asdict(row).items() if key != "index"}
            pixels = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
            items.append(Item(row.bag_id, fingerprint([columns, pixels, str(image.dtype), image.shape]), row))
        return Inventory(tuple(items), tuple(refusals))

    def load(self, item: Item) -> Bag:
        row: Row = item.content
        image = self._images()[row.index]
        voxels = self._to_int16(image if image.ndim == 3 else image[None], row.hu_offset)
        # It is unknown which of several slices show the malignant nodule.
        spacing = (row.pixel_spacing_mm, row.pixel_spacing_mm)
        slice_label = {0: BENIGN, 1: MALIGNANT}.get(row.label, UNKNOWN) if len(voxels) == 1 else UNKNOWN
        return Bag(
            bag_id=row.bag_id,
            patient_id=row.patient_id,
            voxels=voxels,
            z_mm=np.full(len(voxels), row.z_mm),
            slice_labels=np.full(len(voxels), slice_label, dtype=np.int8),
            bag_label=row.label,
            pixel_spacing_mm=spacing,
            split=row.split,
            votes=row.votes,
            diameter_mm=row.diameter_mm,
            details={"density": central_density(voxels, spacing, row.diameter_mm), **row.covariates},
        )

    def _file(self, option: str) -> Path:
        path = Path(getattr(self, option)).expanduser()
        if not path.is_file():
            raise LungtlError(f"dataset.{option}={path} is not a file; set dataset.{option}=FILE")
        return path

    def _images(self) -> NDArray[Any]:
        path = self._file("images")
        stat = path.stat()
        return read_images(path, self.images_key, stat.st_mtime_ns, stat.st_size)

    def _lines(self) -> list[dict[str, str]]:
        """Read the table and check that it has every column that the options name."""
        path = self._file("table")
        columns, lines = read_csv(path)
        named = [(option, column) for option, column in asdict(self).items() if option.endswith("_column")]
        named += [("rating_columns", column) for column in self.rating_columns]
        named += [("covariate_columns", column) for column in self.covariate_columns]
        if taken := sorted(TAKEN & set(self.covariate_columns)):
            raise LungtlError(f"dataset.covariate_columns={taken[0]}: a store has a column of this name; rename it")
        for option, column in named:
            if column is not None and columns.count(column) != 1:
                problem = "this column twice" if column in columns else "no such column"
                raise LungtlError(f"dataset.{option}={column}: {path.name} has {problem}; {nearest(column, columns)}")
        return lines

    def _image_indices(self, lines: list[dict[str, str]], n_images: int) -> list[int]:
        """The index of each line's image."""
        table, images = Path(self.table).name, Path(self.images).name
        ids = [line[self.id_column] for line in lines]
        _check_unique(ids, f"column {self.id_column} of {table}")
        if self.npz_id_key is None:
            if len(ids) != n_images:
                raise LungtlError(
                    f"{table} has {len(ids)} lines, but {images} has {n_images} images; correct one of them, or match "
                    "them by an array of ids: set dataset.npz_id_key"
                )
            return list(range(n_images))
        array = read_array(self._file("images"), self.npz_id_key)
        if array.shape != (n_images,):
            raise LungtlError(
                f"array {self.npz_id_key} of {images} has shape {array.shape}, expected ({n_images},); "
                "set dataset.npz_id_key"
            )
        image_ids = array.astype(str).tolist()
        _check_unique(image_ids, f"array {self.npz_id_key} of {images}")
        index_of = {value: index for index, value in enumerate(image_ids)}
        for missing, where in ((set(ids) - set(index_of), images), (set(index_of) - set(ids), table)):
            if missing:
                raise LungtlError(
                    f"{len(missing)} ids are not in {where}: {_examples(missing)}; compare dataset.id_column="
                    f"{self.id_column} with dataset.npz_id_key={self.npz_id_key}"
                )
        return [index_of[value] for value in ids]

    def _row(self, index: int, line: dict[str, str]) -> Row:
        label_text, patient = line[self.label_column], line[self.patient_column]
        remedy = f"correct it in {Path(self.table).name}"
        if not patient:
            raise Refused(f"{self.patient_column} is empty, expected the patient's id", remedy)
        label = LABELS.get(label_text.lower())
        if label is None:
            raise Refused(f"{self.label_column} is {label_text}, expected 0, 1 or empty", remedy)
        split = line[self.split_column] if self.split_column else ""
        if split not in (*SPLITS, "") and label != UNKNOWN:
            raise Refused(f"{self.split_column} is {split}, expected train, val or test", remedy)
        return Row(
            index=index,
            bag_id=line[self.id_column],
            patient_id=patient,
            label=label,
            split=split if split in SPLITS else None,
            hu_offset=self._number(line, self.hu_offset_column, required=True) if self.hu_offset_column else 0.0,
            diameter_mm=self._number(line, self.diameter_column, least=0.0),
            pixel_spacing_mm=self._number(line, self.pixel_spacing_column, least=1e-6),
            z_mm=self._number(line, self.z_column),
            votes=reader_votes([rating for column in self.rating_columns if (rating := self._rating(line, column))]),
            covariates={column: self._number(line, column) for column in self.covariate_columns},
        )

    def _number(
        self, line: dict[str, str], column: str | None, least: float = -np.inf, required: bool = False
    ) -> float:
        """Read a number; NaN if the column or the value is missing."""
        text = line[column] if column else ""
        if text.lower() in ("", "nan") and not required:
            return math.nan
        number = finite(text)
        if math.isnan(number) or number < least:
            raise Refused(f"{column} is {text or 'empty'}, expected a number", f"correct it in {self.table}")
        return number

    def _rating(self, line: dict[str, str], column: str) -> int:
        """A reader's rating, 1 to 5; 0 if there is none."""
        rating = self._number(line, column)
        if math.isnan(rating):
            return 0
        if rating not in range(6):
            raise Refused(f"{column} is {rating:g}, expected 1 to 5, or 0 or empty", f"correct it in {self.table}")
        return int(rating)

    def _check_hu(self, images: NDArray[Any], rows: Sequence[Row]) -> None:
        """Raise LungtlError if the images of all rows have no negative value, or only fractions of 1."""
        extremes = []
        for row in rows:
            image = images[row.index]
            finite = image[np.isfinite(image)]
            if finite.size:
                extremes += [float(finite.min()) + row.hu_offset, float(finite.max()) + row.hu_offset]
        low, high = min(extremes, default=-np.inf), max(extremes, default=np.inf)
        found = f"{Path(self.images).name} contains values from {low:g} to {high:g}, which are not HU (air is -1000)"
        if images.dtype.kind == "f" and -1 <= low <= high <= 1:
            raise LungtlError(f"{found}; scale them to whole numbers, such as 0..255, and set dataset.hu=false")
        if low >= 0:
            remedy = f"dataset.hu=false dataset.low={low:.0f} dataset.high={high:.0f}"
            raise LungtlError(f"{found}; for grey values set {remedy}, for raw CT values set dataset.hu_offset_column")

    def _to_int16(self, image: NDArray[Any], offset: float) -> NDArray[np.int16]:
        values = image.astype(np.float64) + offset
        if not np.isfinite(values).all():
            raise Refused(f"{int((~np.isfinite(values)).sum())} pixels are not finite", "repair the image")
        whole = np.rint(values)
        if not self.hu and (whole != values).any():
            raise Refused(
                f"grey values are fractional, such as {values[whole != values][0]:g}",
                "scale the images to integers in dataset.low..dataset.high",
            )
        low, high = self.value_range or INT16
        if whole.min() < low or whole.max() > high:
            raise Refused(
                f"pixels are {whole.min():g}..{whole.max():g}, expected {low}..{high}",
                "check dataset.hu_offset_column" if self.hu else "set dataset.low and dataset.high",
            )
        return whole.astype(np.int16)


def _check_unique(ids: Sequence[str], where: str) -> None:
    """Raise LungtlError for empty and repeated ids."""
    if "" in ids:
        raise LungtlError(f"{where} has {ids.count('')} empty ids; fill them in")
    repeated = {value for value, count in Counter(ids).items() if count > 1}
    if repeated:
        raise LungtlError(f"{where} has {len(repeated)} repeated ids: {_examples(repeated)}; make them unique")


def _examples(values: Iterable[str]) -> str:
    first, *more = sorted(values)
    return ", ".join([first, *more[:2]]) + (", ..." if len(more) > 2 else "")
