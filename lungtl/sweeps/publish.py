"""What MLflow gets of a sweep's own run, read from the files of the sweep's folder alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lungtl.sweeps.parent import metrics_of, progress, tags_of

if TYPE_CHECKING:
    from lungtl.tracking.tracker import Tracker

CONFIG, MULTIRUN = "config.yaml", "multirun.yaml"


def publish_sweep(tracker: Tracker, sweep: Path) -> None:
    """How far the sweep is, its settings, and its report where there is one."""
    from lungtl.sweeps.report.write import REPORT
    from lungtl.tracking.mlflow_run import FOLDER

    now = progress(sweep)
    tracker.metrics(metrics_of(now), step=now.done + now.failed)
    tracker.tags({"lungtl.kind": "sweep", FOLDER: str(sweep), "sweep": sweep.name, **tags_of(sweep, now)})
    for name in (CONFIG, MULTIRUN):
        if (sweep / name).is_file():
            tracker.artifacts(sweep / name)
    if (sweep / REPORT).is_dir():
        tracker.artifacts(sweep / REPORT, REPORT)
