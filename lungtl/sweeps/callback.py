"""Where Hydra tells of a sweep: its start, in the process that launches the children, and the end of each of them.

Hydra calls `on_multirun_end` only when nothing was raised; `lungtl.settings.command_line` ends the sweep instead.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback

from lungtl.settings import keys  # noqa: F401  # its resolvers, which a worker needs before its job
from lungtl.settings.errors import LungtlError
from lungtl.sweeps.launched import start_sweep, tracking_of
from lungtl.sweeps.parent import tell_progress
from lungtl.sweeps.state import read_state

log = logging.getLogger(__name__)


class SweepCallback(Callback):
    """Starts the sweep; then keeps its parent run up to date. Holds no state."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Say what each child is, and create or reopen the parent run."""
        from lungtl.settings import command_line

        if config.dry_run:
            return
        try:
            start_sweep(config)
        except LungtlError as error:
            command_line.fail(error)  # Hydra would only warn
        except Exception as error:
            log.exception("the sweep does not start")
            command_line.fail(LungtlError(f"the sweep does not start ({type(error).__name__}: {error}); see above"))

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        """Update the parent when the child did something; this may be another process."""
        folder = Path(config.hydra.runtime.output_dir)
        state = read_state(folder)
        if state is None or not state.own or state.state == "running":
            return
        try:
            tell_progress(folder.parent, *tracking_of(config))
        except LungtlError as error:
            log.warning("the sweep's own run is not up to date: %s", error)
