"""How a run's command is written again; the command itself is tested in tests/commands."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lungtl.reproduce import run
from lungtl.runs.reproduction import compare_environments
from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import ReproduceConfig
from lungtl.settings.text import quoted


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "two words",
        "it's",
        'say "x"',
        "a\\b",
        "ends with \\",
        "ends with '",
        r"\'both\' of 'them\\",
        "a=b,c:[d]{e}",
    ],
)
def test_any_name_reaches_the_new_run_as_it_is(text: str) -> None:
    (parsed,) = OverridesParser.create().parse_overrides([f"name={quoted(text)}"])
    assert str(parsed.value()) == text


ENVIRONMENT = {"commit": "a" * 40, "changed": False, "device": "cpu", "torch": "2.0"}


def told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, then: dict[str, Any], now: dict[str, Any]
) -> tuple[list[tuple[str, str, str]], list[str], list[str]]:
    (tmp_path / "environment.json").write_text(json.dumps(ENVIRONMENT | then))
    found, uncommitted = compare_environments(tmp_path, ENVIRONMENT | now)
    return found, uncommitted, [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_another_commit_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found, uncommitted, warnings = told(tmp_path, caplog, {}, {"commit": "b" * 40, "device": "H100"})
    assert found == [("commit", "a" * 40, "b" * 40), ("device", "cpu", "H100")]
    assert uncommitted == []
    assert warnings == [f"commit was {'a' * 40}, now it is {'b' * 40}", "device was cpu, now it is H100"]


@pytest.mark.parametrize(
    ("then", "now", "when"), [(True, True, ["then", "now"]), (True, False, ["then"]), (False, True, ["now"])]
)
def test_code_that_no_commit_holds_is_not_comparable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, then: bool, now: bool, when: list[str]
) -> None:
    _, uncommitted, warnings = told(tmp_path, caplog, {"changed": then}, {"changed": now})
    assert uncommitted == when
    assert sum("uncommitted" in line for line in warnings) == len(when)


def test_the_same_code_packages_and_device_are_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert told(tmp_path, caplog, {}, {}) == ([], [], [])


def test_a_pruned_run_has_nothing_to_reproduce(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "pruned.json").write_text("2")
    config = ReproduceConfig(data_dir=tmp_path, run=str(tmp_path), tolerance=0, features="cached", trust=None)
    with pytest.raises(LungtlError, match="pruned"):
        run(config)
