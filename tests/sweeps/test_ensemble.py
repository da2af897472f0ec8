"""Which sweeps leave an ensemble; ensembles themselves are in tests/runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lungtl.runs import ensemble
from lungtl.sweeps import launch
from tests.sweeps.folds.test_pooled import run_folder


def written(sweep: Path, monkeypatch: pytest.MonkeyPatch, all_settings: bool = False) -> list[tuple[list[str], str]]:
    calls: list[tuple[list[str], str]] = []

    def note(runs: list[Path], folder: Path, name: str, run_id: str | None) -> None:
        assert (folder, run_id) == (sweep, None)
        calls.append(([run.name for run in runs], name))

    monkeypatch.setattr(ensemble, "write_ensemble", note)
    launch._write_ensemble(sweep, all_settings)
    return calls


def add_run(sweep: Path, number: int, fold: int, **settings: Any) -> None:
    run_folder(sweep, number, fold, **settings)
    (sweep / str(number) / "bundle").mkdir()


def test_folds_and_seeds_of_one_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (fold, seed) in enumerate([(0, 0), (1, 0), (2, 0), (0, 1)]):
        add_run(tmp_path, number, fold, seed=seed)
    ((runs, name),) = written(tmp_path, monkeypatch)
    assert runs == ["0", "1", "2", "3"]
    assert name.startswith("ensemble of 4: ")


def test_several_settings_leave_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, rate in enumerate((1, 2)):
        add_run(tmp_path, number, 0, lr=rate)
    assert written(tmp_path, monkeypatch) == []
    assert written(tmp_path, monkeypatch, all_settings=True) == [
        (["0", "1"], "ensemble of 2: lr=1 toy tiny frozen mean, lr=2 toy tiny frozen mean")
    ]


def test_a_single_run_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(tmp_path, 0, 0)
    assert written(tmp_path, monkeypatch) == []
