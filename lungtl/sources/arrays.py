"""Bring your own crops: an .npz with the images and a .csv with ids, patients and labels."""

from __future__ import annotations

import csv
import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError, Refused
from lungtl.settings.nearest import nearest
from lungtl.sources.base import BENIGN, MALIGNANT, UNKNOWN, Bag, Inventory, Item, Refusal, Source, list_files
from lungtl.sources.base import fingerprint as fingerprint_of

SPLITS = ("train", "val", "test")
LABELS = {"0": 0, "0.0": 0, "false": 0, "1": 1, "1.0": 1, "true": 1, "": UNKNOWN, "nan": UNKNOWN}
INT16 = (-32768, 32767)


@dataclass(frozen=True)
class Row:
    """One line of the table, checked; index is its image's place in the array."""

    index: int
    bag_id: str
    patient_id: str
    label: int
    split: str | None
    hu_offset: float
    diameter_mm: float
    pixel_spacing_mm: float
    z_mm: float


@dataclass(frozen=True)
class ArraysSource(Source):
    """Bags from arrays: images [N, H, W] make bags of one slice, images [N, S, H, W] bags of S slices.

    Attributes:
        images: the .npz file.
        table: the .csv file: a header, then a line a bag.
        name: first part of the store's name.
        images_key: the array of images; needed only when several have 3 or 4 dimensions.
        npz_id_key: the array of ids [N] that links images to lines; without it they correspond by order.
        id_column: the bag's id.
        patient_column: the patient's (pseudonymous) id.
        label_column: 0 or 1 (or false, true); empty where unknown.
        split_column: train, val or test; other values only where the label is unknown, as no split.
        hu_offset_column: HU = image + offset.
        diameter_column: the nodule's diameter in mm, empty where unknown.
        pixel_spacing_column: mm, the same along rows and columns, empty where unknown.
        z_column: position of a one-slice bag in mm, empty where unknown.
        hu: the images are HU (after the offset), rounded where they are fractional; false: whole grey values.
        low: the lowest grey value that can occur, when not HU.
        high: the highest grey value that can occur, when not HU.
    """

    images: str
    table: str
    name: str = "arrays"
    images_key: str | None = None
    npz_id_key: str | None = None
    id_column: str = "id"
    patient_column: str = "patient_id"
    label_column: str = "label"
    split_column: str | None = None
    hu_offset_column: str | None = None
    diameter_column: str | None = None
    pixel_spacing_column: str | None = None
    z_column: str | None = None
    hu: bool = True
    low: int = 0
    high: int = 255

    def __post_init__(self) -> None:
        if self.hu:
            return
        if not INT16[0] <= self.low < self.high <= INT16[1]:
            raise LungtlError(
                f"dataset.low={self.low} and dataset.high={self.high} are no range of 16-bit grey values; "
                "set dataset.low below dataset.high"
            )
        object.__setattr__(self, "value_range", (self.low, self.high))

    def recipe(self) -> dict[str, Any]:
        """Give the options that change bags: not the files, nor the name, nor a range that is not used."""
        left_out = {"images", "table", "name"} | ({"low", "high"} if self.hu else set())
        return {"kind": "arrays", **{key: v for key, v in asdict(self).items() if key not in left_out}}

    def listing(self) -> str:
        """Hash sizes and times of the two files."""
        return list_files([self._file("images"), self._file("table")])

    def inventory(self, workers: int = 1) -> Inventory:
        """Check the table line by line, link it to the images, hash each bag's."""
        lines = self._lines()
        images = self._images()
        if self.z_column and images.ndim == 4 and images.shape[1] > 1:
            raise LungtlError(
                f"dataset.z_column={self.z_column} gives each bag one position, but the bags have "
                f"{images.shape[1]} slices; leave dataset.z_column out"
            )
        rows: list[Row] = []
        refusals: list[Refusal] = []
        for index, line in zip(self._link(lines, len(images)), lines, strict=True):
            try:
                rows.append(self._row(index, line))
            except Refused as refused:
                refusals.append(Refusal(line[self.id_column], refused.reason, refused.remedy))
        self._check_splits(rows)
        return Inventory(tuple(_item(row, images[row.index]) for row in rows), tuple(refusals))

    def load(self, item: Item) -> Bag:
        """Convert the image of one bag to int16."""
        row: Row = item.content
        image = self._images()[row.index]
        voxels = self._to_int16(image if image.ndim == 3 else image[None], row.hu_offset)
        # Which of several slices show the malignant nodule is not known.
        slice_label = {0: BENIGN, 1: MALIGNANT}.get(row.label, UNKNOWN) if len(voxels) == 1 else UNKNOWN
        return Bag(
            bag_id=row.bag_id,
            patient_id=row.patient_id,
            voxels=voxels,
            z_mm=np.full(len(voxels), row.z_mm),
            slice_labels=np.full(len(voxels), slice_label, dtype=np.int8),
            bag_label=row.label,
            pixel_spacing_mm=(row.pixel_spacing_mm, row.pixel_spacing_mm),
            split=row.split,
            diameter_mm=row.diameter_mm,
        )

    def _file(self, option: str) -> Path:
        path = Path(getattr(self, option)).expanduser()
        if not path.is_file():
            raise LungtlError(f"dataset.{option}={path} is not a file; set dataset.{option}=FILE")
        return path

    def _images(self) -> NDArray[Any]:
        path = self._file("images")
        stat = path.stat()
        return _read_images(path, self.images_key, stat.st_mtime_ns, stat.st_size)

    def _lines(self) -> list[dict[str, str]]:
        """Read the table; every named column is there and every line has a value for it."""
        path = self._file("table")
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file, strict=True)
                columns = list(reader.fieldnames or ())
                lines = [(reader.line_num, line) for line in reader]
        except (UnicodeDecodeError, csv.Error) as error:
            raise LungtlError(f"{path} is not a CSV file in UTF-8 ({error}); save it as one") from error
        for option, column in asdict(self).items():
            if option.endswith("_column") and column is not None and columns.count(column) != 1:
                fault = "that column twice" if column in columns else "no such column"
                raise LungtlError(f"dataset.{option}={column}: {path.name} has {fault}; {nearest(column, columns)}")
        for number, line in lines:
            if None in line or None in line.values():
                raise LungtlError(f"{path.name} line {number} has not {len(columns)} values; correct the file")
        return [{column: value.strip() for column, value in line.items()} for _, line in lines]

    def _link(self, lines: list[dict[str, str]], n_images: int) -> list[int]:
        """Find the image of every line."""
        table, images = Path(self.table).name, Path(self.images).name
        ids = [line[self.id_column] for line in lines]
        _check_ids(ids, f"column {self.id_column} of {table}")
        if self.npz_id_key is None:
            if len(ids) != n_images:
                raise LungtlError(
                    f"{table} has {len(ids)} lines, but {images} has {n_images} images; make them agree, or "
                    "link them by an array of ids: set dataset.npz_id_key"
                )
            return list(range(n_images))
        known = _read_array(self._file("images"), self.npz_id_key)
        if known.shape != (n_images,):
            raise LungtlError(
                f"array {self.npz_id_key} of {images} has shape {known.shape}, wanted one id an image, "
                f"({n_images},); set dataset.npz_id_key"
            )
        known_ids = known.astype(str).tolist()
        _check_ids(known_ids, f"array {self.npz_id_key} of {images}")
        place = {value: index for index, value in enumerate(known_ids)}
        for missing, where in ((set(ids) - set(place), images), (set(place) - set(ids), table)):
            if missing:
                raise LungtlError(
                    f"{len(missing)} ids are not in {where}: {_some(missing)}; compare dataset.id_column="
                    f"{self.id_column} with dataset.npz_id_key={self.npz_id_key}"
                )
        return [place[value] for value in ids]

    def _row(self, index: int, line: dict[str, str]) -> Row:
        label_text, patient = line[self.label_column], line[self.patient_column]
        remedy = f"correct it in {Path(self.table).name}"
        if not patient:
            raise Refused(f"{self.patient_column} is empty, wanted whom the image is of", remedy)
        label = LABELS.get(label_text.lower())
        if label is None:
            raise Refused(f"{self.label_column} is {label_text}, wanted 0, 1 or nothing", remedy)
        split = line[self.split_column] if self.split_column else ""
        if split not in (*SPLITS, "") and label != UNKNOWN:
            raise Refused(f"{self.split_column} is {split}, wanted train, val or test", remedy)
        return Row(
            index=index,
            bag_id=line[self.id_column],
            patient_id=patient,
            label=label,
            split=split if split in SPLITS else None,
            hu_offset=self._number(line, self.hu_offset_column, needed=True) if self.hu_offset_column else 0.0,
            diameter_mm=self._number(line, self.diameter_column, least=0.0),
            pixel_spacing_mm=self._number(line, self.pixel_spacing_column, least=1e-6),
            z_mm=self._number(line, self.z_column),
        )

    def _number(self, line: dict[str, str], column: str | None, least: float = -np.inf, needed: bool = False) -> float:
        """Read a number; NaN where the column or the value is missing."""
        text = line[column] if column else ""
        if text.lower() in ("", "nan") and not needed:
            return float("nan")
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not np.isfinite(number) or number < least:
            raise Refused(f"{column} is {text or 'empty'}, wanted a number", f"correct it in {self.table}")
        return number

    def _check_splits(self, rows: Sequence[Row]) -> None:
        """Refuse a patient whose labelled bags lie on two splits."""
        split_of: dict[str, str] = {}
        for row in rows:
            if row.label == UNKNOWN or row.split is None:
                continue
            other = split_of.setdefault(row.patient_id, row.split)
            if other != row.split:
                raise LungtlError(
                    f"patient {row.patient_id} of {Path(self.table).name} is in {other} and {row.split}, "
                    f"wanted one; correct the column {self.split_column}, or set dataset.split_column=null"
                )

    def _to_int16(self, image: NDArray[Any], offset: float) -> NDArray[np.int16]:
        values = image.astype(np.float64) + offset
        if not np.isfinite(values).all():
            raise Refused(f"{int((~np.isfinite(values)).sum())} pixels are not finite", "repair the image")
        whole = np.rint(values)
        if not self.hu and (whole != values).any():
            raise Refused(
                f"grey values are fractional, such as {values[whole != values][0]:g}",
                "scale the images to whole numbers in dataset.low..dataset.high",
            )
        low, high = self.value_range or INT16
        if whole.min() < low or whole.max() > high:
            raise Refused(
                f"pixels are {whole.min():g}..{whole.max():g}, wanted {low}..{high}",
                "check dataset.hu_offset_column" if self.hu else "set dataset.low and dataset.high",
            )
        return whole.astype(np.int16)


def _item(row: Row, image: NDArray[Any]) -> Item:
    columns = {key: value for key, value in asdict(row).items() if key != "index"}
    pixels = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    return Item(row.bag_id, fingerprint_of([columns, pixels, str(image.dtype), image.shape]), row)


# Reading one image unpacks the whole array, so each process does it once; a changed file is read again.
@lru_cache(maxsize=1)
def _read_images(path: Path, key: str | None, mtime_ns: int, size: int) -> NDArray[Any]:
    """Read the images, [N, H, W] or [N, S, H, W]."""
    arrays = _headers(path)
    images = [k for k, (shape, dtype) in arrays.items() if len(shape) in (3, 4) and dtype.kind in "iuf"]
    if (key is None and len(images) != 1) or (key is not None and key not in images):
        listed = ", ".join(f"{k} {dtype} {shape}" for k, (shape, dtype) in arrays.items()) or "nothing"
        wanted = "one numeric array [N, H, W] or [N, S, H, W]" + (f" called {key}" if key else "")
        raise LungtlError(f"{path.name} holds {listed}; wanted {wanted}: set dataset.images_key")
    array = _read_array(path, key or images[0])
    if array.size == 0:
        raise LungtlError(f"array {key or images[0]} of {path.name} has shape {array.shape}, so no pixels; fill it")
    array.flags.writeable = False
    return array


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Read name, shape and type of each array, without its values."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                headers[name.removesuffix(".npy")] = (shape, dtype)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise LungtlError(f"{path} is not a readable .npz ({error}); write it with numpy.savez") from error
    return headers


def _read_array(path: Path, key: str) -> NDArray[Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            array: NDArray[Any] = archive[key]
    except KeyError:
        raise LungtlError(f"{path.name} has no array {key}; {nearest(key, _headers(path))}") from None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise LungtlError(f"array {key} of {path} cannot be read ({error}); write it again") from error
    return array


def _check_ids(ids: Sequence[str], where: str) -> None:
    """Refuse empty and repeated ids."""
    if "" in ids:
        raise LungtlError(f"{where} has {ids.count('')} empty ids, wanted one id a bag; fill them in")
    twice = {value for value, count in Counter(ids).items() if count > 1}
    if twice:
        raise LungtlError(f"{where} has {len(twice)} ids more than once: {_some(twice)}; make them unique")


def _some(values: set[str]) -> str:
    return ", ".join(sorted(values)[:3]) + (", ..." if len(values) > 3 else "")
