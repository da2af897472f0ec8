"""`python -m lungtl.sync`: send MLflow what it missed of the runs that it was lost to."""

from __future__ import annotations

import logging

from lungtl.runs.folder import find_run, read_record
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.schema import SyncConfig

log = logging.getLogger(__name__)


def run(config: SyncConfig) -> None:
    """Send what is kept of one run or of all, a printed line each; raises LungtlError when some of it stays."""
    if not config.tracking.enabled:
        raise UsageError("tracking=none: there is nowhere to send to; leave it out")
    wanted = None if config.run is None else read_record(find_run(config.run, config.data_dir))["mlflow_run_id"]

    from lungtl.tracking.backend import open_client
    from lungtl.tracking.spool import send_all, unsynced

    spools = [spool for spool in unsynced(config.data_dir) if wanted in (None, spool.run_id)]
    if not spools:
        log.info("MLflow has everything")
        return
    client = open_client(config.tracking.uri, config.data_dir)
    failed = []
    for spool in spools:
        try:
            print(f"{spool.run_id} {send_all(spool, client)} entries sent")
        except LungtlError as error:
            failed.append(error)
            log.warning("%s", error)
    if failed:
        raise LungtlError(f"{len(failed)} of {len(spools)} runs were not sent; the lines above say what to do")


if __name__ == "__main__":
    command_line.main("sync", SyncConfig, run)
