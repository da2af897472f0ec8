"""The layout of LIDC-IDRI-slices, written with tiny PNGs under real patients' names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lungtl.sources.base import Bag, Source


def write(folder: Path, *numbers: int, grey: int = 0, size: tuple[int, int] = (4, 4), mode: str = "L") -> None:
    """Write slice-I.png for each number I, of the grey value `grey + I`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        image = Image.fromarray(np.full(size, grey + number, dtype=np.uint8)).convert(mode)
        image.save(folder / "images" / f"slice-{number}.png")


def two_patients(folder: Path) -> Path:
    """A nodule of four readers each: 0003/1 malignant, 0012/1 benign; returns the dataset's folder."""
    root = folder / "kaggle" / "LIDC-IDRI-slices"
    write(root / "LIDC-IDRI-0003" / "nodule-1", 0, 1, 2, 10, 9)
    write(root / "LIDC-IDRI-0012" / "nodule-1", 0, 1, grey=100)
    return root


def four_nodules(folder: Path) -> Path:
    """Of patient 0063, one slice each, two for nodule 2; returns the dataset's folder."""
    for number in (0, 1, 3):
        write(folder / "LIDC-IDRI-0063" / f"nodule-{number}", 0, grey=10 * number)
    write(folder / "LIDC-IDRI-0063" / "nodule-2", 0, 1, grey=20)
    return folder


def bags(source: Source) -> dict[str, Bag]:
    return {item.bag_id: source.load(item) for item in source.inventory().items}


def refusals(source: Source) -> dict[str, str]:
    return {refusal.item: refusal.reason for refusal in source.inventory().refusals}
