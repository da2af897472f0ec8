"""Make pylidc 0.2.3 usable with current numpy, setuptools and Python, without a file in the home folder.

lungtl itself only reads pylidc's database. Tests and benchmarks compare lungtl with pylidc. pylidc imports matplotlib,
which may write its font cache (see MPLCONFIGDIR).
"""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lungtl.settings.errors import LungtlError
from lungtl.sources.lidc_database import database_path

MODULES_WITH_NUMPY = ("pylidc.Annotation", "pylidc.Contour", "pylidc.Scan", "pylidc.utils")


class NumpyWithAliases(ModuleType):
    """Numpy with `np.int` and similar aliases, which were removed in 1.24."""

    int, float, bool = int, float, bool

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def load_pylidc(dicom_root: Path | None = None) -> ModuleType:
    """Import pylidc; only its own modules are patched, and `~/.pylidcrc` is neither read nor written.

    Args:
        dicom_root: the folder with LIDC-IDRI-0001 etc., required for images such as `Scan.to_volume()`; replaces that
            of an earlier call.

    Raises:
        LungtlError: pylidc is not installed.
    """
    database = database_path()
    _import_without_setuptools(database)
    for name in MODULES_WITH_NUMPY:
        vars(sys.modules[name])["np"] = NumpyWithAliases("numpy")

    def root() -> str:
        if dicom_root is None:
            raise LungtlError(
                "pylidc has no DICOM folder; call load_pylidc(FOLDER) with the folder of LIDC-IDRI-0001 ..."
            )
        return str(dicom_root)

    # would read or write a file in the home folder, with a parser that was removed in Python 3.12
    vars(sys.modules["pylidc.Scan"])["_get_dicom_file_path_from_config_file"] = root
    return sys.modules["pylidc"]


def _import_without_setuptools(database: Path) -> None:
    """Import pylidc, which uses pkg_resources (removed in setuptools 82) to find its database."""
    fake: Any = ModuleType("pkg_resources")
    fake.resource_filename = lambda package, name: str(database.with_name(name))
    earlier = sys.modules.get("pkg_resources")
    sys.modules["pkg_resources"] = fake
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations in scipy and SQLAlchemy, invalid escapes in pylidc
            importlib.import_module("pylidc.utils")
    finally:
        if earlier is None:
            del sys.modules["pkg_resources"]
        else:
            sys.modules["pkg_resources"] = earlier
