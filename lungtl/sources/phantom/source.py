"""The built-in dataset: phantom series on disk, read by the LIDC source like real ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from lungtl.sources.base import Bag, Inventory, Item, Source, fingerprint
from lungtl.sources.ct.series import Series
from lungtl.sources.ct.volume import SLICE_STEP_MM
from lungtl.sources.lidc import LidcSource
from lungtl.sources.lidc_database import Scan
from lungtl.sources.lidc_outlines import Placement
from lungtl.sources.phantom.choose import PhantomRecipe
from lungtl.sources.phantom.shapes import NATIVE_MATRIX
from lungtl.sources.phantom.write import write_phantom
from lungtl.sources.progress import bar

VERSION = 2  # increase when the same recipe would give other voxels


@dataclass(frozen=True)
class _PhantomScans(LidcSource):
    """Scans with other pixels than the original's; positions are relative to the original's centre."""

    def placement(self, series: Series, scan: Scan) -> Placement:
        spacing_mm = np.array(series.pixel_spacing_mm)
        x, y, _ = series.files[0].position_mm
        corner_mm = np.array([y, x]) + (NATIVE_MATRIX - 1) / 2 * scan.pixel_spacing_mm
        return Placement(scan.pixel_spacing_mm / spacing_mm, -corner_mm / spacing_mm)


@dataclass(frozen=True)
class PhantomSource(Source):
    """Synthetic chest CTs around real LIDC nodule outlines; clinically meaningless."""

    root: str  # with one subfolder of DICOM series per recipe
    scans: Annotated[int, Ge(2)] = 160  # number of scans, half of them with a malignant nodule
    matrix: Annotated[int, Ge(32), Le(512)] = 128  # rows and columns; 512: full-size slices
    field_mm: Annotated[float, Ge(60)] | None = 70.0  # targeted field of view; None: the whole chest
    z_range_mm: Annotated[float, Gt(0)] | None = 24.0  # length of each scan; None: all of it
    seed: Annotated[int, Ge(0)] = 0  # of scan selection, anatomy and noise
    crop: Literal["none", "lungs"] = "none"  # to one square around the lungs; requires field_mm=None
    name: str = "phantom"  # first part of the store's name

    slice_step_mm = SLICE_STEP_MM

    def recipe(self) -> dict[str, Any]:
        return self._lidc.recipe() | {"kind": "phantom", "version": VERSION, **vars(self._phantom)}

    def listing(self) -> str:
        return fingerprint(self.recipe())  # the recipe decides every byte

    def inventory(self, workers: int = 1) -> Inventory:
        """Write missing series, then find them like those of LIDC."""
        with bar("rendering phantoms") as progress:
            write_phantom(self._phantom, self.folder, progress, workers)
        return self._lidc.inventory(workers)

    def load(self, item: Item) -> Bag:
        return self._lidc.load(item)

    @property
    def folder(self) -> Path:
        """The folder of the series of this recipe."""
        return Path(self.root).expanduser() / fingerprint([VERSION, vars(self._phantom)])[:12]

    @property
    def _phantom(self) -> PhantomRecipe:
        return PhantomRecipe(self.scans, self.matrix, self.field_mm, self.z_range_mm, self.seed)

    @property
    def _lidc(self) -> LidcSource:
        # partial: the phantom has a part of each scan
        return _PhantomScans(str(self.folder), allow_partial=True, crop=self.crop, name=self.name)
