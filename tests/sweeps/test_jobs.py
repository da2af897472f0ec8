"""What run_job does with a run in each state; the work is a function that counts its calls."""

from __future__ import annotations

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from omegaconf import OmegaConf

from lungtl.runs.folder import run_lock
from lungtl.settings.errors import LungtlError, Unreachable, UsageError
from lungtl.sweeps import jobs
from lungtl.sweeps.jobs import RETRY_LOCK, run_alone, run_in_sweep
from lungtl.sweeps.parent import write_parent
from lungtl.sweeps.state import State, read_state, status_of, write_state

STARTED = State("running", 0, ("seed=1",), "val/loss")


class Work:
    """Returns a value, or raises it."""

    def __init__(self, folder: Path, result: float | BaseException) -> None:
        self.folder, self.result, self.seen = folder, result, list[str]()

    def __call__(self) -> float:
        self.seen.append(status_of(self.folder))
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def written(folder: Path) -> State:
    state = read_state(folder)
    assert state is not None
    return replace(state, host="", pid=0, call="", checkpoint=0)


def test_a_new_run_finishes(tmp_path: Path) -> None:
    work = Work(tmp_path, 0.25)
    assert run_in_sweep(tmp_path, STARTED, work, retry=False) == 0.25
    assert work.seen == ["running"]
    assert written(tmp_path) == replace(STARTED, state="finished", value=0.25)


def test_a_finished_run_is_skipped_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_state(tmp_path, replace(STARTED, state="finished", value=0.5))
    work = Work(tmp_path, 0.25)
    assert run_in_sweep(tmp_path, replace(STARTED, number=7), work, retry=True) == 0.5
    assert work.seen == []
    assert capsys.readouterr().out == f"{tmp_path}\n"
    assert written(tmp_path).number == 0


def test_a_killed_run_is_resumed(tmp_path: Path) -> None:
    write_state(tmp_path, STARTED)
    assert run_in_sweep(tmp_path, STARTED, Work(tmp_path, 0.25), retry=False) == 0.25
    assert status_of(tmp_path) == "finished"


def test_a_failed_run_is_retried_on_request(tmp_path: Path) -> None:
    write_state(tmp_path, replace(STARTED, state="failed", error="full disk"))
    work = Work(tmp_path, 0.25)
    assert run_in_sweep(tmp_path, STARTED, work, retry=False) is None
    assert (work.seen, written(tmp_path).error) == ([], "full disk")
    assert run_in_sweep(tmp_path, STARTED, work, retry=True) == 0.25
    assert written(tmp_path).error is None


@pytest.mark.parametrize(
    ("error", "line"),
    [(UsageError("freezing.n=9: 5 blocks;\n give 5"), "freezing.n=9: 5 blocks; give 5"),
     (ValueError("broken"), "ValueError: broken")],
)  # fmt: skip
def test_an_error_is_recorded_and_not_raised(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, line: str
) -> None:
    with caplog.at_level(logging.ERROR):
        assert run_in_sweep(tmp_path, STARTED, Work(tmp_path, error), retry=False) is None
    assert written(tmp_path) == replace(STARTED, state="failed", error=line)
    assert "this run failed; the other runs continue" in caplog.text
    assert ("Traceback" in caplog.text) == isinstance(error, ValueError)


def test_ctrl_c_stops_the_sweep(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_in_sweep(tmp_path, STARTED, Work(tmp_path, KeyboardInterrupt()), retry=False)
    assert status_of(tmp_path) == "killed"


def test_a_run_of_another_process_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs, "LOCK_TIMEOUT", 0.0)
    write_state(tmp_path, STARTED)
    work = Work(tmp_path, 0.25)
    with run_lock(tmp_path):
        assert run_in_sweep(tmp_path, STARTED, work, retry=True) is None
        with pytest.raises(LungtlError, match="wait for it or stop it"):
            run_alone(tmp_path, work)
    assert work.seen == []
    assert str(tmp_path) in caplog.text


def test_a_run_resumed_by_name_records_its_outcome(tmp_path: Path) -> None:
    write_state(tmp_path, replace(STARTED, state="failed", error="full disk"))
    with pytest.raises(ValueError, match="again"):
        run_alone(tmp_path, Work(tmp_path, ValueError("again")))
    assert written(tmp_path).error == "ValueError: again"
    assert run_alone(tmp_path, Work(tmp_path, 0.125)) == 0.125
    assert written(tmp_path) == replace(STARTED, state="finished", value=0.125)


def test_a_run_outside_a_sweep_is_not_started_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "LOCK_TIMEOUT", 0)
    composed = OmegaConf.create({"dry_run": False})
    assert jobs.run_job(tmp_path, composed, lambda: 0.5, single=True) == 0.5
    with run_lock(tmp_path), pytest.raises(LungtlError, match="is running; wait for it or stop it"):
        jobs.run_job(tmp_path, composed, lambda: 0.5, single=True)


def test_a_run_that_keeps_crashing_is_given_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Killed(BaseException):
        """Leaves status.json as SIGKILL does."""

    for attempt in range(1, jobs.MAX_CRASHES + 1):
        with pytest.raises(Killed):
            run_in_sweep(tmp_path, STARTED, Work(tmp_path, Killed()), retry=False)
        assert written(tmp_path) == replace(STARTED, attempts=attempt)
    work = Work(tmp_path, 0.25)
    assert run_in_sweep(tmp_path, STARTED, work, retry=False) is None
    assert work.seen == []
    assert "crashed 5 times in a row with no error message" in caplog.text
    assert status_of(tmp_path) == "failed"
    assert run_in_sweep(tmp_path, STARTED, work, retry=True) == 0.25
    assert written(tmp_path) == replace(STARTED, state="finished", value=0.25)


def test_a_run_that_cannot_reach_mlflow_has_not_failed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unreachable = Work(tmp_path, Unreachable("tracking.uri=http://127.0.0.1:1 cannot be used"))
    for _ in range(jobs.MAX_CRASHES + 1):  # it may be away for a long time
        assert run_in_sweep(tmp_path, STARTED, unreachable, retry=False) is None
        assert status_of(tmp_path) == "killed"
        assert written(tmp_path).error == "tracking.uri=http://127.0.0.1:1 cannot be used"
    assert "this run waits for the next call" in caplog.text
    assert run_in_sweep(tmp_path, STARTED, Work(tmp_path, 0.25), retry=False) == 0.25


def test_a_run_that_progresses_before_each_crash_is_not_given_up(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    crashed = replace(STARTED, attempts=jobs.MAX_CRASHES, checkpoint=checkpoint.stat().st_mtime_ns)
    write_state(tmp_path, crashed)
    assert run_in_sweep(tmp_path, STARTED, Work(tmp_path, 0.25), retry=False) is None
    write_state(tmp_path, crashed)
    os.utime(checkpoint, ns=(7, 7))  # a later one, by a clock that went back
    assert run_in_sweep(tmp_path, STARTED, Work(tmp_path, 0.25), retry=False) == 0.25


def test_crashed_runs_are_retried_one_at_a_time(tmp_path: Path) -> None:
    killed, fresh = tmp_path / "killed", tmp_path / "fresh"
    for folder in (killed, fresh):
        folder.mkdir()
    write_state(killed, STARTED)
    with ThreadPoolExecutor() as pool:
        with FileLock(tmp_path / RETRY_LOCK):  # another run is retried
            waiting = pool.submit(run_in_sweep, killed, STARTED, Work(killed, 0.25), retry=False)
            assert run_in_sweep(fresh, STARTED, Work(fresh, 0.5), retry=False) == 0.5
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.3)
            assert written(killed).attempts == 1, "waiting does not count as an attempt"
        assert waiting.result(timeout=10) == 0.25


def test_a_run_killed_after_a_checkpoint_does_not_wait(tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    (killed / "checkpoints").mkdir(parents=True)
    write_state(killed, STARTED)
    (killed / "checkpoints" / "last.ckpt").touch()
    with FileLock(tmp_path / RETRY_LOCK):
        assert run_in_sweep(killed, STARTED, Work(killed, 0.25), retry=False) == 0.25


@pytest.mark.parametrize("state", [replace(STARTED, state="failed", error="x"), replace(STARTED, attempts=5)])
def test_a_run_is_retried_once_a_call(tmp_path: Path, state: State) -> None:
    """However often the launcher is restarted."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_parent(tmp_path, None, 1, "val/loss")
    call = json.loads((tmp_path / "parent.json").read_text())["call"]
    write_state(folder, replace(state, call=call))
    work = Work(folder, 0.25)
    assert run_in_sweep(folder, STARTED, work, retry=True) is None
    assert work.seen == []
    write_state(folder, replace(state, call=call))
    write_parent(tmp_path, None, 1, "val/loss")  # the next call, whatever the clocks say
    assert run_in_sweep(folder, STARTED, work, retry=True) == 0.25
