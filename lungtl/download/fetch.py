"""Fetch what a folder lacks of CT series, and know a complete series without asking anyone."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lungtl.download import s5cmd
from lungtl.download.index import RemoteSeries
from lungtl.settings.errors import LungtlError
from lungtl.sources.progress import Update

LISTING_SILENCE_S = 20
FAILURES_IN_A_ROW = 20  # after so many it is not the files: the network is gone, or the disk is full
FILE = re.compile(r"[0-9A-Za-z_-]+\.dcm")
UNFINISHED = re.compile(r"[0-9A-Za-z_-]+\.dcm[0-9]+")  # what s5cmd writes before it gives a file its name
NO_NETWORK = "check the network (a proxy is named by HTTPS_PROXY), or name a mirror with endpoint=URL"


def is_complete(series: RemoteSeries, root: Path) -> bool:
    """True where the series' folder holds as many files and bytes as the index says, and nothing else."""
    files = _local(series, root)
    named = all(name.endswith(".dcm") for name in files)
    return named and len(files) == series.n_files and sum(files.values()) == series.size


def missing_bytes(series: RemoteSeries, root: Path) -> int:
    """How many bytes of an incomplete series are still to come, going by the size of what is there."""
    there = sum(size for name, size in _local(series, root).items() if FILE.fullmatch(name))
    return max(series.size - there, 0)


def fetch(wanted: Sequence[RemoteSeries], root: Path, endpoint: str, progress: Update) -> dict[RemoteSeries, str]:
    """Fetch the missing files of series; one that fails does not keep the others from being fetched.

    Args:
        wanted: series that are not complete.
        root: an existing folder; a series goes to `RemoteSeries.folder` in it.
        endpoint: URL of the S3 service.
        progress: called with the number of complete series.

    Returns:
        What went wrong, for the series that are not complete now.

    Raises:
        LungtlError: the service does not answer; or, in the middle, the network is gone or the disk full.
    """
    listed, problems = _list(wanted, endpoint, root)
    missing: dict[str, tuple[RemoteSeries, int]] = {}  # a file's address -> its series, its size
    for series in wanted:
        if series in problems:
            continue
        files = listed[series]
        problem = _mismatch(series, files) or _clear(series, root, files)
        if problem:
            problems[series] = problem
            continue
        there = _local(series, root)
        missing |= {f"{_address(series)}/{n}": (series, size) for n, size in files.items() if there.get(n) != size}
    n_whole = len(wanted) - len(problems) - len({series for series, _ in missing.values()})
    errors = _copy(missing, n_whole, len(wanted), endpoint, root, progress)
    for series in wanted:
        if series not in problems and not is_complete(series, root):
            problems[series] = errors.get(series, "the files that came are not those of the index")
    return problems


def _address(series: RemoteSeries) -> str:
    return f"s3://{series.bucket}/{series.prefix}"


def _local(series: RemoteSeries, root: Path) -> dict[str, int]:
    """Name -> size in bytes of what lies in the series' folder."""
    folder = root / series.folder
    return {path.name: path.stat().st_size for path in folder.iterdir()} if folder.is_dir() else {}


def _list(
    wanted: Sequence[RemoteSeries], endpoint: str, root: Path
) -> tuple[dict[RemoteSeries, dict[str, int]], dict[RemoteSeries, str]]:
    """Ask for the files of the series.

    Returns:
        For each series the names and sizes of its files, and for those that cannot be listed what was answered.
    """
    by_address = {_address(series): series for series in wanted}
    files: dict[RemoteSeries, dict[str, int]] = {series: {} for series in wanted}
    problems = {}
    for answer in s5cmd.run((f"ls {address}/*" for address in by_address), root, endpoint, LISTING_SILENCE_S):
        if "error" in answer:
            error = _said(answer)
            if _is_local(error) and error != "no object found":
                cause = error.rpartition("caused by: ")[2]
                raise LungtlError(f"{endpoint} cannot be reached ({cause}); {NO_NETWORK}")
            if "command" in answer:
                problems[by_address[answer["command"].split()[1].removesuffix("/*")]] = error
        else:
            bucket, prefix, name = answer["key"].removeprefix("s3://").split("/", 2)
            files[by_address[f"s3://{bucket}/{prefix}"]][name] = answer["size"]
    return files, problems


def _mismatch(series: RemoteSeries, files: Mapping[str, int]) -> str:
    """What keeps a listing from being the series of the index; empty where nothing does."""
    if not all(FILE.fullmatch(name) for name in files):
        return "a key that is not the name of a DICOM file"
    seen, wanted = (len(files), sum(files.values())), (series.n_files, series.size)
    if seen != wanted:
        return f"{seen[0]} files of {seen[1]} bytes, where the index has {wanted[0]} of {wanted[1]}"
    return ""


def _clear(series: RemoteSeries, root: Path, files: Mapping[str, int]) -> str:
    """Remove what a killed download left; names a problem where the folder holds what is not from IDC."""
    folder = root / series.folder
    strangers = set(_local(series, root)) - set(files)
    leftovers = {name for name in strangers if UNFINISHED.fullmatch(name)}
    for name in leftovers:
        (folder / name).unlink()
    n = len(strangers - leftovers)
    return f"{folder} holds {n} files that are not from IDC, move them elsewhere" if n else ""


def _copy(
    missing: Mapping[str, tuple[RemoteSeries, int]],
    n_whole: int,
    n_series: int,
    endpoint: str,
    root: Path,
    progress: Update,
) -> dict[RemoteSeries, str]:
    """Fetch files; an error a series is returned."""
    n_left = Counter(series for series, _ in missing.values())
    total, fetched, in_a_row = sum(size for _, size in missing.values()), 0, 0
    errors: dict[RemoteSeries, str] = {}
    start = time.monotonic()
    commands = (f"cp {address} {series.folder}/{Path(address).name}" for address, (series, _) in missing.items())
    for answer in s5cmd.run(commands, root, endpoint):
        if "error" not in answer:
            series, size = missing[answer["source"]]
            n_left[series] -= 1
            n_whole += n_left[series] == 0
            fetched += size
            in_a_row = 0
        elif "command" in answer:
            error = _said(answer)
            errors[missing[answer["command"].split()[1]][0]] = error
            in_a_row += _is_local(error)
            if in_a_row == FAILURES_IN_A_ROW:
                raise LungtlError(
                    f"{in_a_row} files in a row could not be fetched ({error}); when the cause is mended, run the same "
                    "command again: what is there is kept"
                )
        rate = fetched / max(time.monotonic() - start, 1e-3)
        progress(n_whole, n_series, f"{fetched / 1e9:.1f} of {total / 1e9:.1f} GB, {rate / 1e6:.1f} MB/s")
    return errors


def _said(answer: Mapping[str, Any]) -> str:
    """An error of s5cmd without the request's ids, which help nobody."""
    return " ".join(str(answer["error"]).split()).partition(", request id")[0]


def _is_local(error: str) -> bool:
    """True where the error is not the service's answer but this machine's: no network, no space."""
    return "status code" not in error
