from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lungtl.sweeps.state import STATUS, State, child_lock, children, read_state, standing, write_state

RUNNING = State("running", 3, ("seed=1", "aggregator=max"), "val/loss")
HOLD = """
import sys, time
from pathlib import Path
from lungtl.sweeps.state import State, child_lock, write_state
folder = Path(sys.argv[1])
with child_lock(folder):
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
    assert found.own
    assert [path.name for path in tmp_path.iterdir()] == [STATUS]


def test_another_process_is_not_this_one(tmp_path: Path) -> None:
    write_state(tmp_path, RUNNING)
    found = read_state(tmp_path)
    assert found is not None
    assert not replace(found, pid=found.pid + 1).own
    assert not replace(found, host="another").own


def test_a_child_that_never_began_is_new(tmp_path: Path) -> None:
    assert read_state(tmp_path / "x") is None
    assert standing(tmp_path / "x") == "new"
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("state", ["finished", "failed"])
def test_a_child_that_ended_is_what_it_says(tmp_path: Path, state: str) -> None:
    write_state(tmp_path, replace(RUNNING, state=state))  # type: ignore[arg-type]
    assert standing(tmp_path) == state


def test_who_runs_holds_the_lock_and_loses_it_when_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert standing(tmp_path) == "running"
        state = read_state(tmp_path)
        assert state is not None
        assert state.pid == process.pid
        process.kill()
    assert standing(tmp_path) == "killed"
    with child_lock(tmp_path).acquire(timeout=0):
        assert standing(tmp_path) == "running"


def test_children_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name, number in (("b", 10), ("c", 2), ("a", 2)):
        (tmp_path / name).mkdir()
        write_state(tmp_path / name, replace(RUNNING, number=number))
    (tmp_path / "report").mkdir()
    assert [folder.name for folder in children(tmp_path)] == ["a", "c", "b"]
