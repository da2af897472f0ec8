"""`python -m lungtl.download root=FOLDER`: download CT series of LIDC-IDRI and print the folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lungtl.download.fetch import fetch, is_complete, missing_bytes
from lungtl.download.index import RemoteSeries, choose, index_version
from lungtl.evaluation.formatting import format_size
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import DownloadConfig
from lungtl.settings.typed import assigned, typed
from lungtl.sources.files import free_bytes
from lungtl.sources.progress import bar

log = logging.getLogger(__name__)
LOCK = ".download.lock"


def run(config: DownloadConfig) -> None:
    """Log what is to be downloaded; unless it is a dry run, check the free space, download, and print the folder."""
    chosen = choose(config.scans, config.patients)
    incomplete = [series for series in chosen if not is_complete(series, config.root)]
    missing, free = sum(missing_bytes(series, config.root) for series in incomplete), free_bytes(config.root)
    log.info(
        "LIDC-IDRI (CC BY 3.0) at the NCI Imaging Data Commons, index %s: %d CT series of %d patients, %d files, %s",
        index_version(), len(chosen), len({series.patient_id for series in chosen}),
        sum(series.n_files for series in chosen), format_size(sum(series.size for series in chosen)),
    )  # fmt: skip
    log.info(
        "%s has %d of them; %d to download, %s; %s are free",
        config.root, len(chosen) - len(incomplete), len(incomplete), format_size(missing), format_size(free),
    )  # fmt: skip
    if config.dry_run:
        return
    if missing > free:
        raise LungtlError(
            f"{format_size(missing)} to download, but {config.root} has {format_size(free)} free; choose fewer with "
            "scans=N, or another disk with root=FOLDER"
        )
    if incomplete:
        with _locked(config.root), bar("series") as progress:
            problems = fetch(incomplete, config.root, config.endpoint, progress)
        _report(problems, len(chosen))
    print(config.root)
    log.info("next: %s", typed("prepare", "dataset=lidc", assigned("dataset.root", config.root)))


def _report(problems: dict[RemoteSeries, str], n_chosen: int) -> None:
    """Log each incomplete series, and raise LungtlError if there is one."""
    if not problems:
        return
    for series, problem in problems.items():
        log.error("%s, series %s: %s", series.patient_id, series.series_uid, problem)
    raise LungtlError(
        f"{len(problems)} of {n_chosen} series are not complete, see above; rerun the same command: complete series "
        "are kept"
    )


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Create the folder, and lock it against a second download."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / LOCK, timeout=0)
        lock.acquire()
        # Not left empty: preparation would report it as a damaged file.
        (root / LOCK).write_text("Locked by a download into this folder while it runs.\n", encoding="utf-8")
    except Timeout as error:
        raise LungtlError(f"another download is writing to {root}; wait for it, or use another root=FOLDER") from error
    except OSError as error:
        raise LungtlError(f"cannot write to {root} ({error.strerror}); use another folder with root=FOLDER") from error
    try:
        yield
    finally:
        lock.release()


if __name__ == "__main__":
    command_line.main("download", DownloadConfig, run)
