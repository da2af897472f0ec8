from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from lungtl.data.store.reader import Store
from lungtl.models.freezing.frozen import Frozen
from lungtl.sweeps.search.names import PRUNED, TRIAL
from lungtl.sweeps.search.pruning import pruning
from lungtl.sweeps.search.study import open_study
from tests.stores import toy_store
from tests.training.test_fit import LENGTHS, Epochs, train

EPOCHS = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


def _searched(sweep: Path, other: float, monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
    """A study of a trial that had this loss in all epochs, and of one that this process is."""
    sweep.mkdir()
    study = open_study(
        sweep, "val/loss", {}, sampler="random", startup_trials=1,
        pruning={"startup_trials": 1, "warmup_epochs": 1}, seed=0,
    )  # fmt: skip
    ended, running = study.ask(), study.ask()
    for epoch in range(EPOCHS):
        ended.report(other, epoch)
    study.tell(ended, other)
    monkeypatch.setenv(TRIAL, str(running.number))
    return study


def _trained(store: Store, folder: Path, **trainer: Any) -> dict[str, float]:
    """Epoch -> validation loss."""
    epochs = Epochs()
    _, result = train(
        store, folder, Frozen(), epochs, callbacks=pruning(folder, "val/loss"), max_epochs=EPOCHS, **trainer
    )
    assert result["epochs"] == len(epochs.seen)
    return {str(epoch): metrics["val/loss"] for epoch, metrics in epochs.seen.items()}


def _told(study: optuna.Study) -> dict[str, float]:
    return {str(epoch): value for epoch, value in study.trials[1].intermediate_values.items()}


def test_a_trial_that_is_worse_stops_after_the_warm_up(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _searched(tmp_path / "sweep", 0.0, monkeypatch)
    losses = _trained(store, tmp_path / "sweep" / "run")
    assert list(losses) == ["0", "1"]
    assert _told(study) == losses
    assert json.loads((tmp_path / "sweep" / "run" / PRUNED).read_text()) == {"trial": 1, "epochs": 2}


@pytest.mark.slow
def test_processes_that_train_together_stop_together(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _searched(tmp_path / "sweep", 0.0, monkeypatch)
    assert _told(study) == {}
    losses = _trained(store, tmp_path / "sweep" / "run", devices=2, batch_size=4)
    assert list(losses) == ["0", "1"]
    assert _told(study) == losses


def test_a_trial_that_is_better_trains_on(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = _searched(tmp_path / "sweep", 1e9, monkeypatch)
    run = tmp_path / "sweep" / "run"
    run.mkdir()
    (run / PRUNED).write_text("{}")  # of an earlier attempt, when others were better
    losses = _trained(store, run)
    assert list(losses) == ["0", "1", "2", "3"]
    assert _told(study) == losses
    assert not (run / PRUNED).is_file()


def test_what_a_trial_trains_beside_itself_is_none(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = _searched(tmp_path / "sweep", 0.0, monkeypatch)
    assert len(_trained(store, tmp_path / "control")) == EPOCHS
    assert _told(study) == {}
