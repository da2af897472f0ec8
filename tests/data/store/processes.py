"""Preparations in separate processes, which a test can kill."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lungtl.data.store.writer import prepare
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import Source

FILE_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir"}
PATIENCE_S = 60

# Forked from a clean process with all imports: each starts in milliseconds and has no threads.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["tests.data.store.processes", "tests.data.store.made", "pyarrow.pandas_compat", "pyarrow.parquet"]
)


class Preparation:
    """`prepare` in its own process group; it has started when the constructor returns.

    Args:
        source: what to prepare.
        data_dir: as for `prepare`.
        workers: as for `prepare`.
        file_limit: the largest file, in bytes, that the processes can write.
        kill_at: the process kills itself before this file operation below data_dir, counted from 0.
    """

    def __init__(
        self,
        source: Source,
        data_dir: Path,
        workers: int = 1,
        file_limit: int | None = None,
        kill_at: int | None = None,
    ) -> None:
        self._receiver, sender = _context.Pipe(duplex=False)
        self.process = _context.Process(target=_run, args=(sender, source, data_dir, workers, file_limit, kill_at))
        self.process.start()
        sender.close()
        self._receive()
        self.begun = time.monotonic()

    def kill(self) -> None:
        """Kill the process and its workers, if they are still running."""
        assert self.process.pid is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.join()

    def kill_parent(self) -> None:
        """Kill the process but not its workers."""
        self.process.kill()
        self.process.join()

    def result(self) -> str | None:
        """Wait for the end: the store's folder, or the message of the LungtlError; None if it was killed."""
        message = self._receive()
        self.process.join()
        return message

    def _receive(self) -> str | None:
        assert self._receiver.poll(PATIENCE_S)
        try:
            message: str = self._receiver.recv()
        except EOFError:
            return None
        return message


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def _run(
    sender: Connection, source: Source, data_dir: Path, workers: int, file_limit: int | None, kill_at: int | None
) -> None:
    os.setsid()
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if kill_at is not None:
        sys.addaudithook(_killer(str(data_dir), kill_at))
    sender.send("begun")
    try:
        sender.send(str(prepare(source, data_dir, workers).path))
    except LungtlError as error:
        sender.send(str(error))


def _killer(folder: str, step: int) -> Callable[[str, tuple[Any, ...]], None]:
    steps = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal steps
        # rmtree names files relative to an open folder, everything else from the root
        if event in FILE_EVENTS and (event in {"os.remove", "os.rmdir"} or str(args[0]).startswith(folder)):
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
            steps += 1

    return hook
