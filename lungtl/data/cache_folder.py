"""The feature cache on disk, shared by runs; the least recently used entries are removed first.

An entry is a folder with one 2-D array, its checksum and `address.json`, which identifies its content. It is written to
`NAME.partial` and renamed when complete. `NAME.lock` is held by the run that computes, opens or removes it.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError
from lungtl.sources.base import fingerprint

try:
    import fcntl
except ImportError:  # Windows, which does not allow removing a mapped file
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)
GB = 10**9
FEATURES, ADDRESS, CHECKSUM = "features.npy", "address.json", "checksum.txt"
BLOCK = 2**24  # bytes of the array that are read at once
PARTIAL = ".partial"
ROOM = "room.lock"  # held while space is freed and reserved, so that two runs do not reserve the same space
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Entry:
    """A complete entry."""

    folder: Path
    address: dict[str, Any]  # the content of `address.json`
    size: int  # of the array in bytes
    last_used: float  # seconds since 1970


@dataclass(frozen=True)
class Layout:
    """The array of an entry: [rows, width], float32 or float16."""

    rows: int
    width: int
    dtype: str

    @property
    def header(self) -> bytes:
        """The header of its .npy file."""
        file = io.BytesIO()
        descr = dtype_to_descr(np.dtype(self.dtype))
        write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (self.rows, self.width)})
        return file.getvalue()

    @property
    def size(self) -> int:
        """Size of its .npy file in bytes."""
        return len(self.header) + self.rows * self.width * np.dtype(self.dtype).itemsize


class CacheFolder:
    """The feature cache of a data folder, in its subfolder `cache/features`."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "cache" / "features"

    def entries(self) -> list[Entry]:
        """The complete entries, the least recently used first."""
        entries = []
        for folder in self.path.glob("*/"):
            with suppress(OSError, ValueError, TypeError):  # removed in the meantime, or damaged
                if folder.suffix != PARTIAL:
                    address = dict(json.loads((folder / ADDRESS).read_text(encoding="utf-8")))
                    last_used = (folder / ADDRESS).stat().st_mtime
                    entries.append(Entry(folder, address, (folder / FEATURES).stat().st_size, last_used))
        return sorted(entries, key=lambda entry: entry.last_used)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock of an entry; waits for another run that computes it."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("features: waiting for another run that is computing them (%s)", name)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def file(self, name: str) -> Path:
        """The file with the array of a complete entry."""
        return self.path / name / FEATURES

    def is_complete(self, name: str) -> bool:
        """True if a locked entry exists and is intact, which reads all of it; this updates its time of last use."""
        folder = self.path / name
        if not folder.is_dir():
            return False
        if not self.is_intact(folder):
            log.warning("features: cache entry %s is damaged and is computed again", name)
            return False
        os.utime(folder / ADDRESS)
        return True

    @staticmethod
    def is_intact(entry: Path) -> bool:
        """Whether an entry has all files, and its array is as it was written."""
        try:
            written = (entry / CHECKSUM).read_text(encoding="utf-8")
            return (entry / ADDRESS).is_file() and written == _checksum(entry / FEATURES)
        except (OSError, UnicodeDecodeError):
            return False

    def reserve(self, name: str, layout: Layout, max_gb: float) -> Path | None:
        """Allocate the file of a locked entry, removing others if needed; None, after a warning, if it is too large."""
        file = (self.path / name).with_suffix(PARTIAL) / FEATURES
        with FileLock(self.path / ROOM):
            shutil.rmtree(file.parent, ignore_errors=True)
            shutil.rmtree(self.path / name, ignore_errors=True)  # damaged
            bound = max_gb * GB - layout.size
            if bound < 0 or self.shrink(bound, name) > bound:
                log.warning(
                    "features: %.2f GB do not fit into the cache (cache.max_gb=%g; entries in use are kept): this run "
                    "computes them in every epoch", layout.size / GB, max_gb,
                )  # fmt: skip
                return None
            file.parent.mkdir()
            with file.open("wb") as opened:
                opened.write(layout.header)
                opened.flush()
                _allocate(opened, layout.size)
        return file

    def publish(self, name: str, address: Mapping[str, Any]) -> None:
        """Complete a locked entry: write its checksum and address, and give it its final name."""
        partial = (self.path / name).with_suffix(PARTIAL)
        (partial / CHECKSUM).write_text(_checksum(partial / FEATURES), encoding="utf-8")
        (partial / ADDRESS).write_text(json.dumps(address, indent=2), encoding="utf-8")
        partial.replace(self.path / name)

    def discard(self, name: str) -> None:
        """Remove a locked entry that was not completed."""
        shutil.rmtree((self.path / name).with_suffix(PARTIAL), ignore_errors=True)

    def shrink(self, size: float, locked: str | None = None) -> int:
        """Remove leftovers of killed runs, then the least recently used entries until at most `size` bytes remain.

        Returns the remaining bytes, including unfinished entries; more than `size` if the rest is in use.
        """
        for folder in self.path.glob("*/"):  # incomplete entries that no process has locked
            if folder.stem == locked or (folder.suffix != PARTIAL and (folder / ADDRESS).is_file()):
                continue
            with suppress(Timeout), self._lock(folder.stem).acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        used = sum(file.stat().st_size for file in self.path.glob(f"*/{FEATURES}"))
        for entry in self.entries():
            if used <= size:
                break
            if self.remove(entry):
                log.info("features: removed cache entry %s (%.2f GB)", entry.folder.name, entry.size / GB)
                used -= entry.size
        return used

    def remove(self, entry: Entry) -> bool:
        """Remove an entry unless it is in use; True if it no longer exists."""
        lock = self._lock(entry.folder.name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            if _in_use(entry.folder / FEATURES):
                return False
            partial = entry.folder.with_suffix(PARTIAL)  # a leftover if this process is killed
            shutil.rmtree(partial, ignore_errors=True)
            entry.folder.replace(partial)
            shutil.rmtree(partial)
        except (FileNotFoundError, PermissionError):  # removed by another run, or mapped (Windows)
            return not entry.folder.exists()
        finally:
            lock.release()
        return True

    @contextmanager
    def explain_full_disk(self, layout: Layout) -> Iterator[None]:
        """Turn the error of a full disk into a LungtlError."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise LungtlError(
                f"no space for {layout.size / GB:.2f} GB of features in {self.path}; free some space, or set "
                "cache.precision=float16 or cache.enabled=false"
            ) from error

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.path / f"{name}.lock")


def map_array(file: Path, layout: Layout) -> NDArray[np.floating[Any]]:
    """The array of an entry, memory-mapped and read-only.

    It is in use, by a file lock, while the map exists. On file systems without locks (some network drives) it may be
    removed, but on Linux and macOS a removed file stays readable through its map.
    """
    with file.open("rb") as opened:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)  # the map duplicates the descriptor, lock included
        array: NDArray[np.floating[Any]] = np.memmap(
            opened, np.dtype(layout.dtype), "r", len(layout.header), (layout.rows, layout.width)
        )
    return array


def _checksum(file: Path) -> str:
    """Checksum of a file: of the CRC-32 of its blocks, which is faster than SHA-256, with all cores."""

    def crc(start: int) -> int:
        with file.open("rb") as opened:
            opened.seek(start)
            return zlib.crc32(opened.read(BLOCK))

    with ThreadPoolExecutor() as pool:
        return fingerprint(list(pool.map(crc, range(0, file.stat().st_size, BLOCK))))


def _in_use(file: Path) -> bool:
    if fcntl is None or not file.is_file():
        return False
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no locks on this file system
            return False
    return False


def _allocate(file: BinaryIO, size: int) -> None:
    """Reserve the space on disk, so that a full disk is noticed now and not hours later."""
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        if shutil.disk_usage(Path(file.name).parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # not supported by some file systems
            raise
