from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lungtl.tracking.view import COLUMN_WIDTHS
from tests.commands.conftest import Done, Lab, read_json
from tests.forked import isolated
from tests.tracking.mlflow_server import free_port, wait_until_healthy

pytestmark = pytest.mark.slow
LISTENING = "0A"
LOOPBACK = "0100007F"  # as /proc/net/tcp writes 127.0.0.1 on little-endian machines


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the UI's command prints."""
    return tmp_path_factory.mktemp("ui") / "log"


@pytest.fixture(scope="module")
def server(lab: Lab, swept: Done, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running UI, of the runs of a sweep, and all that it starts in one process group."""
    assert swept.code == 0, swept.err
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "lungtl.ui", f"data_dir={lab.data_dir}", f"port={port}"],
            stdout=file, stderr=file, cwd=log.parent, env=isolated(lab.root), start_new_session=True,
        )  # fmt: skip
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", server, log)
        yield server
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait(10)


@pytest.fixture(scope="module")
def page(server: subprocess.Popen[bytes], port: int, log: Path) -> str:
    """The address that it printed."""
    first = log.read_text().splitlines()[0]
    assert first.startswith(f"MLflow on http://127.0.0.1:{port}/#/experiments/")
    return first.split()[2]


@pytest.fixture
def browse(tmp_path: Path) -> Callable[[str], str]:
    """The document that a browser makes of an address."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed")

    def dump(address: str) -> str:
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             f"--user-data-dir={tmp_path}", "--window-size=3300,1200", "--virtual-time-budget=60000", "--dump-dom",
             address], capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout

    return dump


def test_the_runs_table_has_the_columns_that_compare(browse: Callable[[str], str], page: str, swept: Done) -> None:
    document = browse(page)
    shown = set(re.findall(r'col-id="([^"]*)"', document))
    assert COLUMN_WIDTHS.keys() <= shown
    assert f"sweep {Path(swept.out.splitlines()[0]).parent.name}" in document


def test_the_compare_page_shows_what_differs(browse: Callable[[str], str], page: str, swept: Done) -> None:
    runs = [read_json(Path(line) / "run.json")["mlflow_run_id"] for line in swept.out.splitlines()]
    address, _, rest = page.partition("/#/experiments/")
    query = urllib.parse.urlencode({"runs": json.dumps(runs), "experiments": json.dumps([rest.partition("/")[0]])})
    document = browse(f"{address}/#/compare-runs?{query}")
    assert "Comparing 2 Runs from 1 Experiment" in document
    for shown in (*runs, ">mean<", ">max<"):
        assert shown in document


def test_of_a_server_elsewhere_only_the_address_is_printed(lab: Lab, page: str) -> None:
    server = page.partition("/#/")[0]
    done = lab.run("ui", f"tracking.uri={server}")
    assert (done.code, done.err) == (0, f"MLflow on {page}\n")


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="reads Linux's table of sockets")
def test_it_listens_on_loopback_only(page: str, port: int) -> None:
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    sockets = [line.split() for table in tables if table.is_file() for line in table.read_text().splitlines()[1:]]
    listening = [fields[1] for fields in sockets if fields[3] == LISTENING and fields[1].endswith(f":{port:04X}")]
    assert listening == [f"{LOOPBACK}:{port:04X}"]


@pytest.mark.skipif(shutil.which("ps") is None, reason="counts the processes of a group with ps")
def test_mlflow_s_job_runners_are_not_started(server: subprocess.Popen[bytes]) -> None:
    groups = subprocess.run(["ps", "-A", "-o", "pgid="], capture_output=True, text=True, check=True).stdout.split()
    assert 0 < groups.count(str(server.pid)) <= 3  # with them there would be eleven


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
