"""`python -m lungtl.report sweep=FOLDER`: compare the runs of a sweep, on a page and in tables."""

from __future__ import annotations

import logging
from pathlib import Path

from lungtl.runs.folder import read_yaml
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.keys import flatten
from lungtl.settings.schema import ReportConfig
from lungtl.sweeps.parent import MULTIRUN, REPORT, parent_of
from lungtl.tracking.backend import DATABASE, open_client, reason, store_errors
from lungtl.tracking.mlflow_run import MlflowRun

log = logging.getLogger(__name__)


def run(config: ReportConfig) -> None:
    """Write the report, and print its folder; of a cross-validation pool the folds again."""
    from lungtl.sweeps.report.finished import find_sweep
    from lungtl.sweeps.report.write import PAGE, write_report

    sweep = find_sweep(config.sweep, config.data_dir)
    started = flatten(read_yaml(sweep / MULTIRUN)) if (sweep / MULTIRUN).is_file() else {}
    if started.get("hydra.job.config_name") == "crossval":
        from lungtl.sweeps.folds.pooled import pool_sweep

        if config.out is not None or config.title is not None:
            raise UsageError(f"{sweep} is a cross-validation, whose page stays in pooled/; omit out= and title=")
        pool_sweep(sweep, started.get("sweep.ensemble") is True)
        return
    write_report(sweep, config.out, config.title)
    if config.out is None:
        upload(sweep, config)
    out = config.out or sweep / REPORT
    log.info("open %s in a browser", out / PAGE)
    print(out)


def upload(sweep: Path, config: ReportConfig) -> None:
    """Add the report in a sweep's folder to the sweep's own run in MLflow, if it has one; a failure is a warning."""
    run_id, uri = parent_of(sweep), config.tracking.uri
    if run_id is None or not config.tracking.enabled:
        return
    failures: tuple[type[Exception], ...] = (LungtlError, *store_errors())
    try:
        if uri is None and not (config.data_dir / DATABASE).is_file():  # opening it would create it
            raise LungtlError(f"there is no {config.data_dir / DATABASE}")
        MlflowRun(open_client(uri, config.data_dir), run_id).artifacts(sweep / REPORT, REPORT)
    except failures as error:
        log.warning(
            "the report was not uploaded to MLflow (%s); set tracking.uri= or data_dir= of the sweep", reason(error)
        )
    else:
        log.info("uploaded the report to the sweep's MLflow run %s", run_id[:8])


if __name__ == "__main__":
    command_line.main("report", ReportConfig, run)
