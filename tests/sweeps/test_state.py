from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lungtl.runs.folder import run_lock
from lungtl.sweeps.state import STATUS, State, read_state, read_states, status_of, write_state

RUNNING = State("running", 3, ("seed=1", "aggregator=max"), "val/loss")
HOLD = """
import sys, time
from pathlib import Path
from lungtl.runs.folder import run_lock
from lungtl.sweeps.state import State, write_state
folder = Path(sys.argv[1])
with run_lock(folder):
    write_state(folder, State("running", 0, (), "val/loss"))
    print("held", flush=True)
    time.sleep(60)
"""


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = replace(RUNNING, state="failed", error="no disk")
    write_state(tmp_path, written)
    found = read_state(tmp_path)
    assert found is not None
    assert replace(found, host="", pid=0) == written
    assert found.from_this_process
    assert [path.name for path in tmp_path.iterdir()] == [STATUS]


def test_another_process_is_not_this_one(tmp_path: Path) -> None:
    write_state(tmp_path, RUNNING)
    found = read_state(tmp_path)
    assert found is not None
    assert not replace(found, pid=found.pid + 1).from_this_process
    assert not replace(found, host="another").from_this_process


def test_a_run_that_never_started_is_new(tmp_path: Path) -> None:
    assert read_state(tmp_path / "x") is None
    assert status_of(tmp_path / "x") == "new"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_run_that_ended_has_the_recorded_status(tmp_path: Path, state: str) -> None:
    write_state(tmp_path, replace(RUNNING, state=state))  # type: ignore[arg-type]
    assert status_of(tmp_path) == state


def test_a_process_holds_the_lock_until_it_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert status_of(tmp_path) == "running"
        state = read_state(tmp_path)
        assert state is not None
        assert state.pid == process.pid
        process.kill()
    assert status_of(tmp_path) == "killed"
    with run_lock(tmp_path).acquire(timeout=0):
        assert status_of(tmp_path) == "running"


def test_runs_are_ordered_by_job_number(tmp_path: Path) -> None:
    for name, number in (("b", 10), ("c", 2), ("a", 2)):
        (tmp_path / name).mkdir()
        write_state(tmp_path / name, replace(RUNNING, number=number))
    (tmp_path / "report").mkdir()
    assert [folder.name for folder in read_states(tmp_path)] == ["a", "c", "b"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"{}"])
def test_a_damaged_state_is_unknown(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / STATUS).write_bytes(content)
    assert read_state(tmp_path) is None
    assert status_of(tmp_path) == "new"
    assert str(tmp_path) in caplog.text
