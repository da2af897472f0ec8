from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.conftest import Lab

pytestmark = pytest.mark.slow
PATIENCE_S = 60
LISTENING = "0A"
LOOPBACK = "0100007F"  # as /proc/net/tcp writes 127.0.0.1 on little-endian machines


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free: int = probe.getsockname()[1]
    return free


@pytest.fixture(scope="module")
def address(lab: Lab, port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running UI on a data folder that was empty."""
    folder = tmp_path_factory.mktemp("ui")
    log = folder / "log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "lungtl.ui", f"data_dir={folder / 'data'}", f"port={port}"],
            stdout=file, stderr=file, cwd=folder, env=lab.environment(), start_new_session=True,
        )  # fmt: skip
    try:
        _wait(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(10)


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    pytest.fail(f"no answer from {url} within {PATIENCE_S} s: {log.read_text()}")


def test_it_shows_mlflow(address: str) -> None:
    with urllib.request.urlopen(address, timeout=30) as answer:
        assert answer.status == 200
        assert b"MLflow" in answer.read()


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="reads Linux's table of sockets")
def test_it_listens_on_loopback_only(address: str, port: int) -> None:
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    sockets = [line.split() for table in tables if table.is_file() for line in table.read_text().splitlines()[1:]]
    listening = [fields[1] for fields in sockets if fields[3] == LISTENING and fields[1].endswith(f":{port:04X}")]
    assert listening == [f"{LOOPBACK}:{port:04X}"]


@pytest.mark.parametrize("argument", ["prot=5000", "port=many", "5000"])
def test_a_wrong_argument(lab: Lab, argument: str) -> None:
    done = lab.run("ui", argument)
    assert done.code == 2
    assert done.out == ""
    (message,) = done.err.splitlines()
    assert message.startswith("error: ")
    assert argument in message


def test_a_port_in_use(lab: Lab) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert str(taken) in lab.run("ui", f"port={taken}").complaint()
