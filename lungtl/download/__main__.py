"""`python -m lungtl.download root=FOLDER`: fetch CT series of LIDC-IDRI and print the folder."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lungtl.download.fetch import fetch, is_complete, missing_bytes
from lungtl.download.index import RemoteSeries, choose, index_version
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import DownloadConfig
from lungtl.sources.progress import bar

log = logging.getLogger(__name__)
LOCK = ".download.lock"


def run(config: DownloadConfig) -> None:
    """Say what is to come, check that there is room for it, fetch it, and print where it is."""
    chosen = choose(config.scans, config.patients)
    incomplete = [series for series in chosen if not is_complete(series, config.root)]
    _announce(chosen, incomplete, config.root)
    if config.dry_run:
        return
    if incomplete:
        with _locked(config.root), bar("series") as progress:
            problems = fetch(incomplete, config.root, config.endpoint, progress)
        _complain(problems, len(chosen))
    print(config.root)
    log.info("next: python -m lungtl.prepare dataset=lidc %s", shlex.quote(f"dataset.root={_quoted(config.root)}"))


def _announce(chosen: Sequence[RemoteSeries], incomplete: Sequence[RemoteSeries], root: Path) -> None:
    """Tell what was chosen and what of it is missing.

    Raises:
        LungtlError: there is no room for it.
    """
    log.info(
        "LIDC-IDRI (CC BY 3.0) at the NCI Imaging Data Commons, index %s: %d CT series of %d patients, %d files, %s",
        index_version(), len(chosen), len({series.patient_id for series in chosen}),
        sum(series.n_files for series in chosen), _size(sum(series.size for series in chosen)),
    )  # fmt: skip
    existing = next(folder for folder in (root, *root.parents) if folder.is_dir())
    missing, free = sum(missing_bytes(series, root) for series in incomplete), shutil.disk_usage(existing).free
    log.info(
        "%s has %d of them; %d to fetch, %s; %s are free",
        root, len(chosen) - len(incomplete), len(incomplete), _size(missing), _size(free),
    )  # fmt: skip
    if missing > free:
        raise LungtlError(
            f"{_size(missing)} to fetch, but {root} has room for {_size(free)}; take fewer with scans=N, or name "
            "a folder on another disk with root=FOLDER"
        )


def _complain(problems: dict[RemoteSeries, str], n_chosen: int) -> None:
    """Raise LungtlError where series are not complete; each is named."""
    if not problems:
        return
    for series, problem in problems.items():
        log.error("%s, series %s: %s", series.patient_id, series.series_uid, problem)
    raise LungtlError(
        f"{len(problems)} of {n_chosen} series are not complete, see above; run the same command again: the others "
        "are kept"
    )


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Make the folder, and keep a second download out of it."""
    from filelock import FileLock, Timeout

    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / LOCK, timeout=0)
        lock.acquire()
        # Not left empty: preparation would report it as a damaged file.
        (root / LOCK).write_text("Locked by a download into this folder while it runs.\n")
    except Timeout as error:
        raise LungtlError(f"another download is writing to {root}; wait for it, or name another root=FOLDER") from error
    except OSError as error:
        raise LungtlError(f"cannot write to {root} ({error.strerror}); name another folder with root=FOLDER") from error
    try:
        yield
    finally:
        lock.release()


def _quoted(path: Path) -> str:
    """A path as Hydra reads it back; plain where nothing in it needs quotes."""
    from hydra.core.override_parser.types import Quote, QuotedString

    plain = str(path)
    return plain if re.fullmatch(r"[\w/.-]+", plain) else QuotedString(plain, Quote.single).with_quotes()


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


if __name__ == "__main__":
    command_line.main("download", DownloadConfig, run)
