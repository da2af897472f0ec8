"""A report as artifacts of the sweep's own MLflow run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lungtl.settings.errors import LungtlError
from lungtl.sweeps.parent import REPORT

if TYPE_CHECKING:
    from lungtl.settings.schema import TrackingConfig

log = logging.getLogger(__name__)


def upload(files: Sequence[Path], sweep: Path, tracking: TrackingConfig, data_dir: Path) -> None:
    """Add a report to the sweep's own run in MLflow, if it has one; a failure is a warning.

    Args:
        files: of the report.
        sweep: its folder.
        tracking: of the MLflow server or store with the run.
        data_dir: of a local store.
    """
    from lungtl.sweeps.parent import parent_of

    run_id = parent_of(sweep)
    if run_id is None or not tracking.enabled:
        return

    from lungtl.tracking.backend import DATABASE, open_client, reason, store_errors

    failures: tuple[type[Exception], ...] = (LungtlError, *store_errors())
    try:
        if tracking.uri is None and not (data_dir / DATABASE).is_file():  # opening it would create it
            raise LungtlError(f"there is no {data_dir / DATABASE}")
        client = open_client(tracking.uri, data_dir)
        for path in files:
            client.log_artifact(run_id, str(path), REPORT)
    except failures as error:
        log.warning(
            "the report was not uploaded to MLflow (%s); set tracking.uri= or data_dir= of the sweep", reason(error)
        )
    else:
        log.info("uploaded the report to the sweep's MLflow run %s", run_id[:8])
