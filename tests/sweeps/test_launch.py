"""Launching, relaunching and ending a sweep, whatever goes wrong; whole sweeps are in tests/commands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from lungtl.runs.folder import run_lock
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError
from lungtl.sweeps import jobs, launch
from lungtl.sweeps.parent import parent_of, write_parent
from lungtl.sweeps.state import State, read_states, write_state
from lungtl.tracking.backend import experiment_id, open_client
from lungtl.tracking.tracker import NoTracker

STARTED = State("running", 0, ("seed=0",), "val/loss")


class Recorder(NoTracker):
    """Records how it was closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def close(self, status: str) -> None:
        self.closed.append(status)


def sweep_of(folder: Path, states: dict[str, State | None]) -> tuple[Recorder, Path]:
    """A sweep that this process has started, its runs in these states."""
    for name, state in states.items():
        (folder / name).mkdir(parents=True)
        if state is not None:
            write_state(folder / name, state)
    write_parent(folder, None, len(states), "val/loss")
    tracker = Recorder()
    launch._current = launch.Sweep(folder, tracker, tuple(folder / name for name in states), read_states(folder))
    return tracker, folder


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lungtl.sweeps.report.write.write_report", lambda sweep: None)
    monkeypatch.setattr(launch, "_current", None)


def count_polls(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> list[float]:
    """How often the sweep polled other processes; `then` is called at the second time."""
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            then()

    monkeypatch.setattr(launch, "time", SimpleNamespace(sleep=sleep))
    return waited


def test_each_unfinished_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tracker, folder = sweep_of(
        tmp_path,
        {
            "done": replace(STARTED, state="finished", value=0.5),
            "failed": replace(STARTED, state="failed", overrides=("seed=1",), error="no such file"),
            "killed": replace(STARTED, overrides=("seed=2",)),
            "new": None,
            "elsewhere": replace(STARTED, overrides=("seed=3",)),
        },
    )
    lock = run_lock(folder / "elsewhere")
    lock.acquire()

    def finish() -> None:
        write_state(folder / "elsewhere", replace(STARTED, state="finished", value=0.4))
        lock.release()

    waited = count_polls(monkeypatch, finish)
    with pytest.raises(LungtlError, match=r"^3 runs did not finish .*sweep\.retry=true$"):
        launch.end("FINISHED")
    assert len(waited) == 2
    assert "waiting for runs in other processes: seed=3" in caplog.text
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert sorted(errors) == [
        "not finished: new: it was not started",
        "not finished: seed=1: no such file",
        "not finished: seed=2: its process ended with no error message (killed or out of memory)",
    ]
    assert tracker.closed == ["FAILED"]


def test_a_sweep_that_was_stopped_is_closed_as_killed(tmp_path: Path) -> None:
    tracker, _ = sweep_of(tmp_path, {"new": None})
    assert launch.end("KILLED") is True
    assert tracker.closed == ["KILLED"]
    assert launch.end("KILLED") is False


@pytest.mark.parametrize("error", [LungtlError("no runs"), ZeroDivisionError("by zero")])
def test_without_a_report_the_parent_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def broken(sweep: Path) -> list[Path]:
        raise error

    monkeypatch.setattr("lungtl.sweeps.report.write.write_report", broken)
    tracker, _ = sweep_of(tmp_path, {"done": replace(STARTED, state="finished", value=0.5)})
    assert launch.end("FINISHED")
    assert tracker.closed == ["FINISHED"]
    assert "no report" in caplog.text


@pytest.mark.parametrize(("status", "times"), [("FINISHED", 1), ("KILLED", 0)])
def test_the_folds_of_a_cross_validation_are_pooled_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str, times: int
) -> None:
    pooled: list[tuple[Path, bool]] = []
    monkeypatch.setattr("lungtl.sweeps.folds.pooled.pool_sweep", lambda *given: pooled.append(given))
    _, folder = sweep_of(tmp_path, {"done": replace(STARTED, state="finished", value=0.5)})
    assert launch._current is not None
    launch._current.folds = launch._current.ensemble = True
    assert launch.end(status)
    assert pooled == [(folder, True)] * times


def test_a_launcher_without_progress_is_not_restarted(tmp_path: Path) -> None:
    assert not launch.relaunch(OSError("there is no sweep"))
    sweep_of(tmp_path, {"killed": STARTED, "new": None})
    assert not launch.relaunch(OSError("no cluster"))


@pytest.mark.parametrize(
    "state", [STARTED, replace(STARTED, attempts=2), replace(STARTED, state="finished", value=0.5)]
)
def test_a_launcher_with_progress_is_restarted(tmp_path: Path, caplog: pytest.LogCaptureFixture, state: State) -> None:
    sweep_of(tmp_path, {"killed": STARTED, "new": None})
    write_state(tmp_path / ("new" if state == STARTED else "killed"), state)
    assert launch.relaunch(OSError("a worker\nended"))
    assert "the launcher has stopped (OSError: a worker ended); restarting it" in caplog.text


def test_other_processes_are_waited_for_before_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitit's launcher stops at the first job that was killed, while the other jobs continue."""
    sweep_of(tmp_path, {"other": STARTED})
    lock = run_lock(tmp_path / "other")
    lock.acquire()
    waited = count_polls(monkeypatch, lock.release)
    launch.relaunch(OSError("killed"))
    assert len(waited) == 2


def test_the_launcher_is_restarted_until_all_is_done(tmp_path: Path) -> None:
    """Jobs that crash the launcher, twice."""
    sweep_of(tmp_path, {"killed": STARTED})
    launches = 0

    def job() -> None:
        nonlocal launches
        launches += 1
        launch.start(None)  # as the callback does
        if launches < 3:
            write_state(tmp_path / "killed", replace(STARTED, attempts=1 + launches))
            raise OSError("a worker ended")

    command_line._launch(job, jobs)
    assert launches == 3


def test_an_error_of_ours_ends_the_command(tmp_path: Path) -> None:
    sweep_of(tmp_path, {"killed": STARTED})

    def job() -> None:
        write_state(tmp_path / "killed", replace(STARTED, attempts=2))
        raise LungtlError("no such option")

    with pytest.raises(LungtlError):
        command_line._launch(job, jobs)


def test_concurrent_calls_of_a_sweep_share_one_parent(tmp_path: Path) -> None:
    sweep = tmp_path / "sweeps" / "x"
    sweep.mkdir(parents=True)
    config = OmegaConf.create(
        {
            "data_dir": str(tmp_path), "name": None, "sweep": {"name": "x"}, "trainer": {"monitor": "val/loss"},
            "tracking": {"enabled": True, "uri": None, "experiment": "e"},
            "hydra": {"overrides": {"task": ["seed=0,1"]}},
        }
    )  # fmt: skip
    with ThreadPoolExecutor() as pool:
        parents = list(pool.map(lambda _: launch._open_parent(config, sweep, 2).run_id, range(4)))
    assert len(set(parents)) == 1
    client = open_client(None, tmp_path)
    (run,) = client.search_runs([experiment_id(client, "e", None, tmp_path)])
    assert run.info.run_id == parent_of(sweep) == parents[0]
