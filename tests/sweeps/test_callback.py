"""A sweep that cannot start; whole sweeps are in tests/commands."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from lungtl.sweeps import launch
from lungtl.sweeps.callback import SweepCallback


def test_ray_reports_no_usage() -> None:
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_an_error_at_the_start_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(config: Any) -> None:
        raise ValueError("closing tag [/x] matches nothing")

    monkeypatch.setattr(launch, "start", broken)
    with pytest.raises(SystemExit) as stopped:
        SweepCallback().on_multirun_start(SimpleNamespace(dry_run=False))
    assert stopped.value.code == 1
    assert "error: cannot start the sweep (ValueError: closing tag [/x]" in capsys.readouterr().err
