"""`latest` names a run wherever one is needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lungtl.runs.folder import BUNDLE, METRICS, find_model, find_run, write_record
from lungtl.settings.errors import UsageError


def write(folder: Path, age: int, *files: str) -> Path:
    """A run that started `age` seconds ago, with these files."""
    folder.mkdir(parents=True)
    write_record(folder, {"mlflow_run_id": None})
    for name in files:
        (folder / name).mkdir()
    os.utime(folder / "run.json", (1_000_000 - age, 1_000_000 - age))
    return folder


def test_it_is_the_run_that_started_last_and_has_what_is_needed(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "b", 30, BUNDLE, METRICS)
    swept = write(tmp_path / "sweeps" / "s" / "0123", 20, BUNDLE)
    scored = write(tmp_path / "runs" / "c", 15, METRICS)
    started = write(tmp_path / "runs" / "a", 10)
    assert find_run("latest", tmp_path) == started
    assert find_run("latest", tmp_path, METRICS) == scored
    assert find_model("latest", tmp_path) == swept


def test_without_a_run_there_is_no_latest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has run\.json yet; train one"):
        find_run("latest", tmp_path)


def test_a_name_in_mlflow_is_refused_with_what_works(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"models:/lungtl@best is a name in MLflow; give the run's folder"):
        find_model("models:/lungtl@best", tmp_path)
