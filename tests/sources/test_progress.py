"""Progress on a terminal, and in the log."""

from __future__ import annotations

import io
import logging
from types import SimpleNamespace

import pytest
from rich.console import Console

from lungtl.sources.progress import bar


def test_without_a_terminal_there_is_a_line_every_half_minute_and_one_at_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    clock = 0.0
    monkeypatch.setattr("lungtl.sources.progress.time", SimpleNamespace(monotonic=lambda: clock))
    with bar("preparing lidc") as progress:
        for done in range(101):
            clock = float(done)  # one a second
            progress(done, 100, f"{done // 50} refused")
    assert caplog.messages == [
        "preparing lidc: 30/100 in 30 s, 70 s left, 0 refused",
        "preparing lidc: 60/100 in 60 s, 40 s left, 1 refused",
        "preparing lidc: 90/100 in 90 s, 10 s left, 1 refused",
        "preparing lidc: 100/100 in 2 min, 2 refused",
    ]


def test_a_note_is_not_needed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with bar("embedding") as progress:
        progress(1, 2)
        progress(2, 2)
    assert caplog.messages == ["embedding: 2/2 in 0 s"]


def test_no_line_without_an_update(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO)
    with bar("preparing"):
        pass
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == []


def test_the_last_state_is_logged_after_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def work() -> None:
        with bar("preparing") as progress:
            progress(3, 10, "[x] 1 refused")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert caplog.messages == ["preparing: 3/10 in 0 s, 0 s left, [x] 1 refused"]


def test_on_a_terminal_the_bar_is_there_from_the_first_update(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    def terminal(**_: object) -> Console:
        return Console(file=screen, force_terminal=True, width=100)

    monkeypatch.setattr("rich.console.Console", terminal)
    with bar("preparing") as progress:
        progress(0, 10, "0 refused")
        assert "0/10" in screen.getvalue()
        assert "0 refused" in screen.getvalue()


def test_what_is_logged_on_a_terminal_is_a_line_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=screen, force_terminal=True, width=100))
    handler = logging.StreamHandler(screen)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    with bar("predicting") as progress:
        progress(1, 2)
        logging.getLogger().warning("scan 2: probability 0.31")
        progress(2, 2)
    (line,) = [line for line in screen.getvalue().split("\n") if "scan 2" in line]
    assert line.rpartition("\x1b[2K")[2] == "scan 2: probability 0.31"  # the row is erased first
    assert handler.stream is screen
