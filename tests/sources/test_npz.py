"""Arrays that cannot be in memory are refused by their header."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lungtl.settings.errors import LungtlError
from lungtl.sources.npz import read_images


@pytest.mark.parametrize("shape", [(2**40, 1024, 1024), (2**20, 1024, 1024)])
def test_a_header_that_claims_more_than_the_memory(tmp_path: Path, shape: tuple[int, ...]) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<i2", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    with pytest.raises(LungtlError, match=r"array images of x\.npz has shape .* GB of memory; split the file"):
        read_images(tmp_path / "x.npz", None, 0, 0)
