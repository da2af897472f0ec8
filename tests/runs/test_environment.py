from __future__ import annotations

import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from lungtl.runs.environment import OPTIONAL, commit_of, differences, environment, several


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_checkout(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        options = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", "-C", str(tmp_path), *options, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert commit_of(tmp_path) is None
    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "-m", "one")
    assert commit_of(tmp_path) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "file").write_text("two")
    assert commit_of(tmp_path) == (git("rev-parse", "HEAD"), True)


def test_differences_name_what_changed_came_and_went() -> None:
    then = {"torch": "2.12.0", "numpy": "2.4", "old": "1"}
    now = {"torch": "2.13.0", "numpy": "2.4", "new": "1"}
    assert differences(then, now) == [("new", "None", "1"), ("old", "1", "None"), ("torch", "2.12.0", "2.13.0")]


def test_the_environment_names_what_decides_the_numbers() -> None:
    import torch

    found = environment("cpu")
    assert found["torch"] == torch.__version__
    assert found["device"] == "cpu"
    assert differences(found, environment("cpu")) == []


def test_extras_are_recorded_and_null_where_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"peft": "0.17.0"}

    def version(name: str) -> str:
        if name in OPTIONAL and name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed.get(name, "1.0")

    monkeypatch.setattr(metadata, "version", version)
    found = environment("cpu")
    assert {name: found[name] for name in OPTIONAL} == {"captum": None, "peft": "0.17.0", "torchmil": None}
    assert found["torch"] == "1.0"


def test_what_several_environments_differ_in_is_counted() -> None:
    found = several(
        [{"torch": "1", "numpy": "2"}, {"torch": "2", "numpy": "2"}, {"torch": "1", "numpy": "2", "peft": "3"}]
    )
    assert found == {"peft": {"None": 2, "3": 1}, "torch": {"1": 2, "2": 1}}
