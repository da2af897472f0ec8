"""A sweep (`-m`) is one run in MLflow, its jobs the children.

Hydra calls this in the process that launches the jobs; the jobs, wherever they run, find the parent's id in the
sweep's folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

PARENT = "parent.json"
_started: list[SweepParent] = []


class SweepParent(Callback):
    """Opens the parent run before the jobs start and closes it when all have ended."""

    def __init__(self) -> None:
        self.tracker: Any = None
        self.failed = 0
        self.folder: Path | None = None

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Create the parent run and leave its id in the sweep's folder."""
        self.folder = Path(config.hydra.sweep.dir)
        _started.append(self)
        if not config.tracking.enabled or config.dry_run:
            return
        from lungtl.config import TrackingConfig
        from lungtl.tracking.tracker import MlflowTracker

        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        overrides = list(config.hydra.overrides.task)
        self.tracker = MlflowTracker(
            TrackingConfig(**dict(config.tracking)), Path(config.data_dir).expanduser().resolve(),
            config.name or f"sweep {folder.name}",
        )  # fmt: skip
        self.tracker.tags({"lungtl.kind": "sweep", "lungtl.grid": " ".join(overrides), "lungtl.folder": str(folder)})
        (folder / PARENT).write_text(json.dumps({"mlflow_run_id": self.tracker.run_id}))

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        """Count failures, where jobs run in this process."""
        self.failed += job_return.status.name == "FAILED"

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        """Close the parent run."""
        self.end("FAILED" if self.failed else "FINISHED")

    def end(self, status: str) -> None:
        """Print the comparison and close the parent run, once."""
        from lungtl.report import print_sweep

        if self.folder is None:
            return
        print_sweep(self.folder)
        self.folder = None
        if self.tracker is not None:
            self.tracker.metrics({"failed_jobs": self.failed})
            self.tracker.close(status)


def end_started(status: str) -> None:
    """Close what Hydra left open: it does not call `on_multirun_end` when a job failed."""
    for sweep in _started:
        sweep.end(status)


def parent_of(sweep_folder: Path) -> str | None:
    """The parent run's id, from the sweep's folder."""
    path = sweep_folder / PARENT
    return str(json.loads(path.read_text())["mlflow_run_id"]) if path.is_file() else None
