"""Names from files and folders are printed as they are: no Console of ours reads them as rich's markup."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import lungtl
from lungtl.sources.progress import bar

SOURCES = sorted(Path(lungtl.__file__).parent.rglob("*.py"))


def calls(name: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Place and constant options of every call of this name."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and name == getattr(node.func, "attr", getattr(node.func, "id", "")):
                options = {one.arg: one.value.value for one in node.keywords if isinstance(one.value, ast.Constant)}
                yield f"{path.name}:{node.lineno}", {str(key): value for key, value in options.items()}


def test_no_console_reads_markup_or_emoji() -> None:
    consoles = dict(calls("Console"))
    assert len(consoles) >= 5
    reading = {
        place: given for place, given in consoles.items() if given.get("markup", True) or given.get("emoji", True)
    }
    assert reading == {}


def test_a_progress_bar_prints_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()

    def terminal(*, stderr: bool, **options: Any) -> Console:
        return Console(file=screen, force_terminal=True, width=100, **options)

    monkeypatch.setattr("rich.console.Console", terminal)
    with bar("preparing [/red]") as progress:
        progress(1, 1, "[/blue]")
    assert "preparing [/red]" in screen.getvalue()
