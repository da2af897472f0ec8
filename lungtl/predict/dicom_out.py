"""`dicom_out=true`: the result of each series as DICOM files next to its page (pip install 'lungtl[dicom-out]').

The files carry the study's own identification, since a PACS files them by it; their names do not.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from lungtl.data.store.files import explain_write_errors, whole_file
from lungtl.settings.errors import LungtlError

if TYPE_CHECKING:
    from lungtl.predict.result import SeriesResult
    from lungtl.predict.study import Study

REPORT, PAGE = "report.dcm", "page.dcm"


def check_installed() -> None:
    """Raise LungtlError, before anything is predicted, unless highdicom is installed."""
    if importlib.util.find_spec("highdicom") is None:
        raise LungtlError("dicom_out=true needs highdicom; pip install 'lungtl[dicom-out]', or dicom_out=false")


def write_dicom(result: SeriesResult, study: Study, folder: Path) -> list[Path]:
    """Write the structured report, and the page as an image if it has been drawn, with new UIDs.

    Args:
        result: of a series or a nodule.
        study: of its series.
        folder: of the result; created if missing.

    Returns:
        The files: report.dcm and page.dcm.
    """
    from lungtl.predict.secondary_capture import secondary_capture
    from lungtl.predict.structured_report import structured_report

    logging.getLogger("highdicom").setLevel(logging.CRITICAL)  # it quotes odd patient names
    paths = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values, which may identify a patient
        with explain_write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for name, build in ((REPORT, structured_report), (PAGE, secondary_capture)):
            if name == PAGE and not result.pages:
                continue
            dataset = build(result, study)
            with whole_file(folder / name, folder) as file:
                dataset.save_as(file, enforce_file_format=True)
            paths.append(folder / name)
    return paths
