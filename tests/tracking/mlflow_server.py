"""A real `mlflow server` on loopback with a SQLite store, to be killed and started again by a test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

PATIENCE_S = 90


class MlflowServer:
    """The server's folder and port stay the same when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return once it answers."""
        log = self.folder / "server.log"
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder}/server.db",
                   "--artifacts-destination", str(self.folder / "artifacts"), "--host", "127.0.0.1",
                   "--port", str(self.port), "--workers", "1"]  # fmt: skip
        without_jobs = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # eight processes more
        with log.open("a") as file:
            self._process = subprocess.Popen(
                command, stdout=file, stderr=file, start_new_session=True, env=without_jobs
            )
        wait_until_healthy(self.uri, self._process, log)

    def kill(self) -> None:
        """Without a chance to say goodbye."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)
            self._process = None


class Door:
    """A port of loopback that leads to a server; while it is shut, the server cannot be reached."""

    def __init__(self, server: int) -> None:
        self.server, self.port = server, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._sockets: list[socket.socket] = []

    def open(self) -> None:
        self._sockets = [socket.create_server(("127.0.0.1", self.port))]
        threading.Thread(target=self._accept, args=self._sockets, daemon=True).start()

    def shut(self) -> None:
        for one in self._sockets:
            with suppress(OSError):  # it has ended
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # shut
            while True:
                pair = listener.accept()[0], socket.create_connection(("127.0.0.1", self.server))
                self._sockets += pair
                for ends in (pair, pair[::-1]):
                    threading.Thread(target=_forward, args=ends, daemon=True).start()


def _forward(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # shut
        while received := source.recv(2**16):
            target.sendall(received)
        target.shutdown(socket.SHUT_WR)


def free_port() -> int:
    """A port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until_healthy(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers; fails with its log when it does not."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    pytest.fail(f"no answer from {uri} within {PATIENCE_S} s: {log.read_text()}")
