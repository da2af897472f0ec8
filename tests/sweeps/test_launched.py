"""How a sweep is launched, launched again, and ended, whatever goes wrong there; whole sweeps are in tests/commands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError
from lungtl.sweeps import jobs, launched
from lungtl.sweeps.launched import Launched, end_sweep
from lungtl.sweeps.parent import parent_of, write_parent
from lungtl.sweeps.state import State, child_lock, write_state
from lungtl.tracking.backend import experiment_id, open_client
from lungtl.tracking.tracker import NoTracker

STARTED = State("running", 0, ("seed=0",), "val/loss")


class Noted(NoTracker):
    """How it was closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def close(self, status: str) -> None:
        self.closed.append(status)


def sweep_of(folder: Path, states: dict[str, State | None]) -> tuple[Noted, Path]:
    """A sweep that this process has started, its children in these states."""
    for name, state in states.items():
        (folder / name).mkdir(parents=True)
        if state is not None:
            write_state(folder / name, state)
    write_parent(folder, None, len(states), "val/loss")
    tracker = Noted()
    launched._launched.append(Launched(folder, tracker, tuple(folder / name for name in states)))
    return tracker, folder


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lungtl.sweeps.report.write.print_sweep", lambda sweep: None)
    monkeypatch.setattr("lungtl.sweeps.report.write.write_report", lambda sweep: [])
    monkeypatch.setattr(launched, "_launched", [])


def count_looks(monkeypatch: pytest.MonkeyPatch, then: Callable[[], None]) -> list[float]:
    """How often the sweep looked for those of other processes; at the second look something happens."""
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            then()

    monkeypatch.setattr(launched, "time", SimpleNamespace(sleep=sleep))
    return waited


def test_each_child_that_did_not_finish_is_named(
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
    lock = child_lock(folder / "elsewhere")
    lock.acquire()

    def finish() -> None:
        write_state(folder / "elsewhere", replace(STARTED, state="finished", value=0.4))
        lock.release()

    waited = count_looks(monkeypatch, finish)
    with pytest.raises(LungtlError, match=r"^3 of the runs did not finish, see above and in .* sweep\.retry=true"):
        end_sweep("FINISHED")
    assert len(waited) == 2
    assert "waiting for other processes to end: seed=3" in caplog.text
    told = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert sorted(told) == [
        "not finished: new: it was not started",
        "not finished: seed=1: no such file",
        "not finished: seed=2: its process ended before it could say why (killed, or out of memory)",
    ]
    assert tracker.closed == ["FAILED"]


def test_a_sweep_whose_launcher_stopped_is_closed_as_that(tmp_path: Path) -> None:
    tracker, _ = sweep_of(tmp_path, {"new": None})
    assert end_sweep("KILLED") is True
    assert tracker.closed == ["KILLED"]
    assert end_sweep("KILLED") is False


@pytest.mark.parametrize("error", [LungtlError("no runs"), ZeroDivisionError("by zero")])
def test_a_report_that_cannot_be_made_leaves_the_parent_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def broken(sweep: Path) -> list[Path]:
        raise error

    monkeypatch.setattr("lungtl.sweeps.report.write.write_report", broken)
    tracker, _ = sweep_of(tmp_path, {"done": replace(STARTED, state="finished", value=0.5)})
    assert end_sweep("FINISHED")
    assert tracker.closed == ["FINISHED"]
    assert "no report" in caplog.text


def test_a_launcher_that_got_no_child_further_is_not_started_again(tmp_path: Path) -> None:
    assert not launched.launch_again(OSError("there is no sweep"))
    sweep_of(tmp_path, {"killed": STARTED, "new": None})
    assert not launched.launch_again(OSError("no cluster"))


@pytest.mark.parametrize(
    "state", [STARTED, replace(STARTED, attempts=2), replace(STARTED, state="finished", value=0.5)]
)
def test_a_launcher_that_got_one_further_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, state: State
) -> None:
    sweep_of(tmp_path, {"killed": STARTED, "new": None})
    write_state(tmp_path / ("new" if state == STARTED else "killed"), state)
    assert launched.launch_again(OSError("a worker\nended"))
    assert "the launcher has stopped (OSError: a worker ended); it starts once more" in caplog.text


def test_what_other_processes_do_is_awaited_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitit's launcher stops at the first job that was killed, while the others go on."""
    sweep_of(tmp_path, {"other": STARTED})
    lock = child_lock(tmp_path / "other")
    lock.acquire()
    waited = count_looks(monkeypatch, lock.release)
    launched.launch_again(OSError("killed"))
    assert len(waited) == 2


def test_the_command_goes_on_until_all_that_can_be_done_is_done(tmp_path: Path) -> None:
    """Jobs that take the launcher with them, twice."""
    sweep_of(tmp_path, {"killed": STARTED})
    launches = 0

    def job() -> None:
        nonlocal launches
        launches += 1
        launched.start_sweep(None)  # as the callback does: nothing is asked or told anew
        if launches < 3:
            write_state(tmp_path / "killed", replace(STARTED, attempts=1 + launches))
            raise OSError("a worker ended")

    command_line._launch(job, jobs)
    assert launches == 3


def test_an_error_that_is_not_the_launchers_ends_the_command(tmp_path: Path) -> None:
    sweep_of(tmp_path, {"killed": STARTED})

    def job() -> None:
        write_state(tmp_path / "killed", replace(STARTED, attempts=2))
        raise LungtlError("no such option")

    with pytest.raises(LungtlError):
        command_line._launch(job, jobs)


def test_calls_of_one_new_sweep_make_one_parent(tmp_path: Path) -> None:
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
        parents = list(pool.map(lambda _: launched._open_parent(config, sweep, 2).run_id, range(4)))
    assert len(set(parents)) == 1
    client = open_client(None, tmp_path)
    (run,) = client.search_runs([experiment_id(client, "e", None, tmp_path)])
    assert run.info.run_id == parent_of(sweep) == parents[0]
