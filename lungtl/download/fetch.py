"""Download the missing files of CT series; complete series are recognised offline."""

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

LISTING_TIMEOUT_S = 20
MAX_FAILURES = 20  # consecutive ones: the network is down or the disk is full
FILE = re.compile(r"[0-9A-Za-z_-]+\.dcm")
UNFINISHED = re.compile(r"[0-9A-Za-z_-]+\.dcm[0-9]+")  # written by s5cmd before it renames a file


def is_complete(series: RemoteSeries, root: Path) -> bool:
    """True if the series' folder has as many files and bytes as in the index, and nothing else."""
    files = _local_files(series, root)
    named = all(name.endswith(".dcm") for name in files)
    return named and len(files) == series.n_files and sum(files.values()) == series.size


def missing_bytes(series: RemoteSeries, root: Path) -> int:
    """Number of bytes still to download, from the sizes of the existing files."""
    existing = sum(size for name, size in _local_files(series, root).items() if FILE.fullmatch(name))
    return max(series.size - existing, 0)


def fetch(incomplete: Sequence[RemoteSeries], root: Path, endpoint: str, progress: Update) -> dict[RemoteSeries, str]:
    """Download the missing files of series below `root`; continue with the others if one fails.

    Returns the problem of each series that is still not complete. Raises LungtlError if the service does not answer,
    the network fails or the disk is full.
    """
    remote, problems = _list(incomplete, endpoint, root)
    missing: dict[str, tuple[RemoteSeries, int]] = {}  # address of a file -> its series, its size
    for series in incomplete:
        if series in problems:
            continue
        files = remote[series]
        problem = _mismatch(series, files) or _remove_unfinished(series, root, files)
        if problem:
            problems[series] = problem
            continue
        existing = _local_files(series, root)
        missing |= {f"{_address(series)}/{n}": (series, size) for n, size in files.items() if existing.get(n) != size}
    n_complete = len(incomplete) - len(problems) - len({series for series, _ in missing.values()})
    errors = _copy(missing, n_complete, len(incomplete), endpoint, root, progress)
    for series in incomplete:
        if series not in problems and not is_complete(series, root):
            problems[series] = errors.get(series, "the downloaded files differ from the index")
    return problems


def _address(series: RemoteSeries) -> str:
    return f"s3://{series.bucket}/{series.prefix}"


def _local_files(series: RemoteSeries, root: Path) -> dict[str, int]:
    """Name -> size in bytes of the files in the series' folder."""
    folder = root / series.folder
    return {path.name: path.stat().st_size for path in folder.iterdir()} if folder.is_dir() else {}


def _list(
    series: Sequence[RemoteSeries], endpoint: str, root: Path
) -> tuple[dict[RemoteSeries, dict[str, int]], dict[RemoteSeries, str]]:
    """Names and sizes of the files of each series at the service, and the error of those that cannot be listed."""
    by_address = {_address(each): each for each in series}
    files: dict[RemoteSeries, dict[str, int]] = {each: {} for each in series}
    problems = {}
    for answer in s5cmd.run((f"ls {address}/*" for address in by_address), root, endpoint, LISTING_TIMEOUT_S):
        if "error" in answer:
            error = _message(answer)
            if _is_local(error) and error != "no object found":
                cause = error.rpartition("caused by: ")[2]
                raise LungtlError(
                    f"{endpoint} cannot be reached ({cause}); check the network (proxies are set by HTTPS_PROXY), or "
                    "use a mirror with endpoint=URL"
                )
            if "command" in answer:
                problems[by_address[answer["command"].split()[1].removesuffix("/*")]] = error
        else:
            bucket, prefix, name = answer["key"].removeprefix("s3://").split("/", 2)
            files[by_address[f"s3://{bucket}/{prefix}"]][name] = answer["size"]
    return files, problems


def _mismatch(series: RemoteSeries, files: Mapping[str, int]) -> str:
    """How a listing differs from the index; empty if it does not."""
    if not all(FILE.fullmatch(name) for name in files):
        return "a key that is not the name of a DICOM file"
    n_bytes = sum(files.values())
    if (len(files), n_bytes) != (series.n_files, series.size):
        return f"{len(files)} files of {n_bytes} bytes, but {series.n_files} of {series.size} in the index"
    return ""


def _remove_unfinished(series: RemoteSeries, root: Path, files: Mapping[str, int]) -> str:
    """Remove unfinished files of a killed download; the problem if the folder has files that are not from IDC."""
    folder = root / series.folder
    unknown = set(_local_files(series, root)) - set(files)
    unfinished = {name for name in unknown if UNFINISHED.fullmatch(name)}
    for name in unfinished:
        (folder / name).unlink()
    n = len(unknown - unfinished)
    return f"{folder} has {n} files that are not from IDC, move them elsewhere" if n else ""


def _copy(
    missing: Mapping[str, tuple[RemoteSeries, int]],
    n_complete: int,
    n_series: int,
    endpoint: str,
    root: Path,
    progress: Update,
) -> dict[RemoteSeries, str]:
    """Download files; return one error per failed series."""
    n_left = Counter(series for series, _ in missing.values())
    total, downloaded, failures = sum(size for _, size in missing.values()), 0, 0
    errors: dict[RemoteSeries, str] = {}
    start = time.monotonic()
    commands = (f"cp {address} {series.folder}/{Path(address).name}" for address, (series, _) in missing.items())
    for answer in s5cmd.run(commands, root, endpoint):
        if "error" not in answer:
            series, size = missing[answer["source"]]
            n_left[series] -= 1
            n_complete += n_left[series] == 0
            downloaded += size
            failures = 0
        elif "command" in answer:
            error = _message(answer)
            errors[missing[answer["command"].split()[1]][0]] = error
            failures += _is_local(error)
            if failures == MAX_FAILURES:
                raise LungtlError(
                    f"{failures} consecutive files could not be downloaded ({error}); fix the cause, then rerun the "
                    "same command: complete files are kept"
                )
        rate = downloaded / max(time.monotonic() - start, 1e-3)
        progress(n_complete, n_series, f"{downloaded / 1e9:.1f} of {total / 1e9:.1f} GB, {rate / 1e6:.1f} MB/s")
    return errors


def _message(answer: Mapping[str, Any]) -> str:
    """The error message of s5cmd without the ids of the request."""
    return " ".join(str(answer["error"]).split()).partition(", request id")[0]


def _is_local(error: str) -> bool:
    """True if the error is not an answer of the service but of this computer: no network, no space."""
    return "status code" not in error
