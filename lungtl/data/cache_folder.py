"""The folder of feature caches: entries that appear whole, are shared by runs, and leave by when they were last used.

An entry is a folder with one 2-D array and `address.json`, which says what it holds. It is written as
`NAME.partial` and renamed when it is complete. `NAME.lock` is held by the run that computes, opens or removes it.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError

try:
    import fcntl
except ImportError:  # Windows, which refuses by itself to remove what is mapped
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)
GB = 10**9
FEATURES, ADDRESS = "features.npy", "address.json"
PARTIAL = ".partial"
ROOM = "room.lock"  # held while room is made and taken: two runs must not count on the same
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Entry:
    """A complete entry.

    Attributes:
        folder: where it lies.
        address: what `address.json` says of it.
        size: of the array, bytes.
        last_used: seconds since 1970.
    """

    folder: Path
    address: dict[str, Any]
    size: int
    last_used: float


@dataclass(frozen=True)
class Layout:
    """The one array of an entry: [rows, width], float32 or float16."""

    rows: int
    width: int
    dtype: str

    @property
    def header(self) -> bytes:
        """The beginning of its .npy file."""
        file = io.BytesIO()
        descr = dtype_to_descr(np.dtype(self.dtype))
        write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (self.rows, self.width)})
        return file.getvalue()

    @property
    def size(self) -> int:
        """Bytes of its .npy file."""
        return len(self.header) + self.rows * self.width * np.dtype(self.dtype).itemsize


class CacheFolder:
    """The caches of a data folder.

    Args:
        data_dir: they are its folder `cache/features`; nothing outside it is touched.
    """

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "cache" / "features"

    def entries(self) -> list[Entry]:
        """The complete entries, the least recently used first."""
        found = []
        for folder in self.path.glob("*/"):
            with suppress(OSError, ValueError, TypeError):  # removed meanwhile, or damaged: then it is none
                if folder.suffix != PARTIAL:
                    address = dict(json.loads((folder / ADDRESS).read_text()))
                    last_used = (folder / ADDRESS).stat().st_mtime
                    found.append(Entry(folder, address, (folder / FEATURES).stat().st_size, last_used))
        return sorted(found, key=lambda entry: entry.last_used)

    @contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Keep an entry to oneself; waits for another run that computes it."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            log.info("features: waiting for another run that computes them (%s)", name)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def file(self, name: str) -> Path:
        """The array of a complete entry."""
        return self.path / name / FEATURES

    def holds(self, name: str, address: Mapping[str, Any], layout: Layout) -> bool:
        """Whether a claimed entry is there as it was written; it then counts as used now."""
        folder = self.path / name
        if not folder.is_dir():
            return False
        if not _is_as_written(folder, address, layout):
            log.warning("features: the cache entry %s is damaged; computing it again", name)
            return False
        os.utime(folder / ADDRESS)  # last used now
        return True

    def reserve(self, name: str, layout: Layout, max_gb: float) -> Path | None:
        """Take the space of a claimed entry, removing others where they would exceed the bound together.

        Returns:
            The file, which holds the header and room for the rows; None, after a warning, where the bound is too low.

        Raises:
            OSError: the disk is full.
        """
        file = (self.path / name).with_suffix(PARTIAL) / FEATURES
        with FileLock(self.path / ROOM):
            shutil.rmtree(file.parent, ignore_errors=True)
            shutil.rmtree(self.path / name, ignore_errors=True)  # damaged
            bound = max_gb * GB - layout.size
            if bound < 0 or self.shrink(bound, name) > bound:
                log.warning(
                    "features: %.2f GB do not fit into the cache (cache.max_gb=%g, and entries in use stay): this "
                    "run computes them anew in every epoch", layout.size / GB, max_gb,
                )  # fmt: skip
                return None
            file.parent.mkdir()
            with file.open("wb") as opened:
                opened.write(layout.header)
                opened.flush()
                _allocate(opened, layout.size)
        return file

    def publish(self, name: str, address: Mapping[str, Any]) -> None:
        """Make a claimed entry of what was written; then it is there, whole."""
        partial = (self.path / name).with_suffix(PARTIAL)
        (partial / ADDRESS).write_text(json.dumps(address, indent=2))
        partial.replace(self.path / name)

    def discard(self, name: str) -> None:
        """Give back the space of a claimed entry that was not completed."""
        shutil.rmtree((self.path / name).with_suffix(PARTIAL), ignore_errors=True)

    def shrink(self, size: float, claimed: str | None = None) -> int:
        """Remove what killed runs left, then the least recently used entries until no more than `size` is left.

        Args:
            size: bytes that may stay.
            claimed: the entry that the caller holds.

        Returns:
            Bytes that are left, being computed included; more than `size` where the rest is in use.
        """
        self._remove_leftovers(claimed)
        used = sum(file.stat().st_size for file in self.path.glob(f"*/{FEATURES}"))
        for entry in self.entries():
            if used <= size:
                break
            if self.remove(entry):
                log.info("features: removed the cache entry %s (%.2f GB)", entry.folder.name, entry.size / GB)
                used -= entry.size
        return used

    def remove(self, entry: Entry) -> bool:
        """Remove an entry unless a run computes, opens or uses it; whether it is gone."""
        lock = self._lock(entry.folder.name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        try:
            if _in_use(entry.folder / FEATURES):
                return False
            doomed = entry.folder.with_suffix(PARTIAL)  # what is left of it when this is killed is a leftover
            shutil.rmtree(doomed, ignore_errors=True)
            entry.folder.replace(doomed)
            shutil.rmtree(doomed)
        except (FileNotFoundError, PermissionError):  # removed by another run; or mapped, on Windows
            return not entry.folder.exists()
        finally:
            lock.release()
        return True

    def _remove_leftovers(self, claimed: str | None) -> None:
        """Remove whatever is incomplete while nobody holds its lock."""
        for folder in self.path.glob("*/"):
            if folder.stem == claimed or (folder.suffix != PARTIAL and (folder / ADDRESS).is_file()):
                continue
            with suppress(Timeout), self._lock(folder.stem).acquire(timeout=0):
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def room_needed(self, layout: Layout) -> Iterator[None]:
        """Name a full disk as such."""
        try:
            yield
        except OSError as error:
            if error.errno not in FULL:
                raise
            free = shutil.disk_usage(self.path).free
            raise LungtlError(
                f"the features need {layout.size / GB:.2f} GB in {self.path}, {free / GB:.2f} GB are free; make room, "
                "or give cache.precision=float16 or cache.enabled=false"
            ) from error

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.path / f"{name}.lock")


def map_array(file: Path, layout: Layout) -> NDArray[np.floating[Any]]:
    """The array of an entry, memory-mapped and read-only.

    It is marked as in use for as long as the map lives. Where files cannot be locked (some network drives), it may be
    removed meanwhile: on Linux and macOS an unlinked file stays readable through its map.
    """
    with file.open("rb") as opened:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)  # the map duplicates the descriptor, lock included
        array: NDArray[np.floating[Any]] = np.memmap(
            opened, np.dtype(layout.dtype), "r", len(layout.header), (layout.rows, layout.width)
        )
    return array


def _in_use(file: Path) -> bool:
    if fcntl is None or not file.is_file():
        return False
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # locks do not work here: it cannot be known
            return False
    return False


def _is_as_written(folder: Path, address: Mapping[str, Any], layout: Layout) -> bool:
    try:
        written = json.loads((folder / ADDRESS).read_text())
        with (folder / FEATURES).open("rb") as file:
            header = file.read(len(layout.header))
            size = file.seek(0, io.SEEK_END)
    except (OSError, ValueError):
        return False
    return bool(written == json.loads(json.dumps(address)) and header == layout.header and size == layout.size)


def _allocate(file: BinaryIO, size: int) -> None:
    """Have the disk set the space aside, so that it is found full now and not hours later."""
    if not hasattr(os, "posix_fallocate"):  # macOS, Windows
        if shutil.disk_usage(Path(file.name).parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    try:
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):  # some file systems cannot
            raise
