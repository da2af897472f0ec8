from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from lungtl.tracking.unsent import FILE, Unsent, find_unsent, read_unsent, write_unsent


def test_marked_folders_are_found(tmp_path: Path) -> None:
    marked = [tmp_path / name for name in ("evaluations/a", "runs/a", "sweeps/a", "sweeps/a/0")]
    for folder in (*marked, tmp_path / "runs" / "b"):
        folder.mkdir(parents=True)
    assert find_unsent(tmp_path) == []
    for folder in marked:
        write_unsent(folder, Unsent("abc", None, "tests"))
    assert find_unsent(tmp_path) == marked


def test_the_marker_is_read_back(tmp_path: Path) -> None:
    assert read_unsent(tmp_path) is None
    unsent = Unsent("abc", "http://***@host", "tests", tags={"a": "b"}, status="FINISHED", end_time=7)
    write_unsent(tmp_path, unsent)
    assert read_unsent(tmp_path) == unsent
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_only_a_live_process_of_this_machine_is_running() -> None:
    own = Unsent("abc", None, "tests")
    assert own.running
    assert not replace(own, started=own.started - 60).running  # its process id was used again
    assert not replace(own, pid=None).running
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
    assert not replace(own, pid=ended.pid).running
    assert not own.elsewhere
    elsewhere = replace(own, host="another machine")
    assert (elsewhere.running, elsewhere.elsewhere) == (False, True)
    assert not replace(elsewhere, pid=None).elsewhere
