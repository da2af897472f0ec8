"""What a sweep says at its start and its end, whatever goes wrong there; whole sweeps are in tests/commands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lungtl.errors import LungtlError
from lungtl.sweeps import callback, launched
from lungtl.sweeps.callback import SweepCallback
from lungtl.sweeps.parent import write_parent
from lungtl.sweeps.state import State, child_lock, write_state
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
    monkeypatch.setattr("lungtl.report.print_sweep", lambda sweep: None)
    monkeypatch.setattr("lungtl.report.write_report", lambda sweep: [])
    monkeypatch.setattr(launched, "_launched", [])


def test_whatever_goes_wrong_at_the_start_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(config: Any) -> Started:
        raise ValueError("closing tag [/x] matches nothing")

    monkeypatch.setattr(callback, "start_sweep", broken)
    with pytest.raises(SystemExit) as stopped:
        SweepCallback().on_multirun_start(SimpleNamespace(dry_run=False))
    assert stopped.value.code == 1
    assert "error: the sweep does not start (ValueError: closing tag [/x]" in capsys.readouterr().err


def test_each_child_that_did_not_finish_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    with (
        child_lock(folder / "elsewhere"),
        pytest.raises(LungtlError, match=r"^3 of the runs did not finish, see above and in .* sweep\.retry=true"),
    ):
        end_sweep("FINISHED")
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

    monkeypatch.setattr("lungtl.report.write_report", broken)
    tracker, _ = sweep_of(tmp_path, {"done": replace(STARTED, state="finished", value=0.5)})
    assert end_sweep("FINISHED")
    assert tracker.closed == ["FINISHED"]
    assert "no report" in caplog.text
