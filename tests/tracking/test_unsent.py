from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lungtl.tracking.unsent import FILE, Unsent, find_unsent, is_recorded_now, read_unsent, try_lock, write_unsent


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


def test_a_marker_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    earlier = {
        "mlflow_run_id": "abc",
        "tracking_uri": None,
        "experiment": "tests",
        "host": "a",
        "pid": 1,
        "started": 2.0,
    }
    (tmp_path / FILE).write_text(json.dumps(earlier))
    assert read_unsent(tmp_path) == Unsent("abc", None, "tests")


def test_a_folder_is_recorded_until_its_process_ends_however_it_ends(tmp_path: Path) -> None:
    assert not is_recorded_now(tmp_path)
    own = try_lock(tmp_path)
    assert is_recorded_now(tmp_path)
    assert not try_lock(tmp_path).is_locked
    own.release()
    assert not is_recorded_now(tmp_path)
    code = (
        "from pathlib import Path; from lungtl.tracking.unsent import try_lock\n"
        f"lock = try_lock(Path({str(tmp_path)!r})); print(lock.is_locked, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        assert is_recorded_now(tmp_path)
        other.kill()
    assert not is_recorded_now(tmp_path)
