"""Output of progress bars."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from lungtl.sources.progress import bar


def test_without_a_terminal_there_is_one_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("preparing lidc") as progress:
        for done in range(101):
            progress(done, 100, f"{done // 50} refused, 31.5 MB/s")
            assert capsys.readouterr().err == ""
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("preparing lidc ")
    assert "100/100" in line
    assert line.rstrip().endswith("2 refused, 31.5 MB/s")


def test_a_note_is_not_needed(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("embedding") as progress:
        progress(1, 2)
        progress(2, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.split()[-3:] == ["2/2", *line.split()[-2:]]
    assert "None" not in line


def test_no_bar_without_an_update(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("preparing"):
        pass
    assert capsys.readouterr() == ("", "")


def test_the_last_state_is_shown_after_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        with bar("preparing") as progress:
            progress(3, 10, "[x] 1 refused")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    err = capsys.readouterr().err
    assert "3/10" in err
    assert "[x] 1 refused" in err  # no markup


def test_on_a_terminal_the_bar_is_there_from_the_first_update(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    def terminal(**_: object) -> Console:
        return Console(file=screen, force_terminal=True, width=100)

    monkeypatch.setattr("rich.console.Console", terminal)
    with bar("preparing") as progress:
        progress(0, 10, "0 refused")
        assert "0/10" in screen.getvalue()
        assert "0 refused" in screen.getvalue()
