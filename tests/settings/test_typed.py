from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lungtl.settings.typed import TYPED, assigned, remember_command, typed, typed_again

MODULE = ["python", "-W", "ignore", "-m", "lungtl.train", "-m", "seed=0,1"]


@pytest.fixture(autouse=True)
def _not_started_by_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TYPED, "")  # so that it is restored
    monkeypatch.delenv(TYPED)


def test_a_module_is_named_as_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.orig_argv", MODULE)
    assert typed("ui", "data_dir=/my data") == "python -m lungtl.ui 'data_dir=/my data'"
    monkeypatch.setattr("sys.orig_argv", [".venv/bin/python", "-m", "lungtl.train"])
    assert typed("ui") == ".venv/bin/python -m lungtl.ui"


@pytest.mark.parametrize("on_path", [True, False])
def test_the_installed_command_is_named_as_the_shell_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_path: bool
) -> None:
    script = tmp_path / "lungtl"
    script.touch()
    monkeypatch.setattr(shutil, "which", lambda _: str(script) if on_path else None)
    monkeypatch.setattr("sys.orig_argv", ["/venv/bin/python", str(script), "train", "-m", "seed=0,1"])
    assert typed("ui") == ("lungtl ui" if on_path else f"{script} ui")


def test_without_a_command_it_is_this_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.orig_argv", ["python", "notebook.py"])
    monkeypatch.setattr("sys.executable", "/venv/bin/python")
    assert typed("ui") == "/venv/bin/python -m lungtl.ui"


def test_further_processes_repeat_the_first_ones_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", "lungtl.crossval", "seed=0"])
    remember_command("crossval", ["seed=0,1", "sweep.name=old"])
    monkeypatch.setattr("sys.orig_argv", ["/venv/bin/python", "-m", "lungtl.train", "-m"])
    remember_command("train", ["-m"])
    assert json.loads(os.environ[TYPED])[1:] == ["crossval", "seed=0,1", "sweep.name=old"]
    assert typed_again("sweep.name=new") == "python -m lungtl.crossval seed=0,1 sweep.name=new"


@pytest.mark.parametrize("value", ["/data/x-1_y.2", "/my data", "a,b", "it's", "{x}", "a=b", "~/x", "null"])
def test_an_assigned_value_is_what_hydra_reads(value: str) -> None:
    override = OverridesParser.create().parse_override(assigned("run", value))
    assert str(override.value() if value != "null" else "null") == value
