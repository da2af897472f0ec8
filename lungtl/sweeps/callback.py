"""Hydra's callback: the start of a sweep in the process that launches it, and the end of each run.

Hydra calls `on_multirun_end` only if nothing was raised; `lungtl.settings.command_line` ends the sweep instead.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from lungtl.settings import (
    command_line,
    keys,  # noqa: F401  # registers resolvers that a worker needs before its job
)
from lungtl.settings.errors import LungtlError
from lungtl.sweeps import launch
from lungtl.sweeps.parent import publish_progress
from lungtl.sweeps.state import read_state

log = logging.getLogger(__name__)


class SweepCallback(Callback):
    """Starts the sweep, then keeps its parent run up to date. Stateless."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Print the plan; create or reopen the parent run."""
        if config.dry_run:
            return
        try:
            launch.start(config)
        except LungtlError as error:
            command_line.fail(error)  # Hydra would only warn
        except Exception as error:
            log.exception("cannot start the sweep")
            command_line.fail(LungtlError(f"cannot start the sweep ({type(error).__name__}: {error}); see above"))

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        """Update the parent if this process, which may be a worker, has worked on the run."""
        folder = Path(config.hydra.runtime.output_dir)
        state = read_state(folder)
        if state is None or not state.from_this_process or state.state == "running":
            return
        try:
            publish_progress(folder.parent, *launch.tracking_of(config))
        except LungtlError as error:
            log.warning("the sweep's own MLflow run is not up to date: %s", error)
