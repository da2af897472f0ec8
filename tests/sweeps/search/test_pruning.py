from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from lungtl.data.store.reader import Store
from lungtl.models.freezing.frozen import Frozen
from lungtl.runs.folder import PRUNED
from lungtl.sweeps.search import TRIAL
from lungtl.sweeps.search.pruning import pruning
from lungtl.sweeps.search.study import open_study
from lungtl.training.datamodule import BagDataModule
from lungtl.training.fit import fit, seed_everything
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from tests.models.tiny import tiny_classifier
from tests.stores import toy_store
from tests.training.test_fit import LENGTHS, Epochs, config_of, split_of

EPOCHS = 4


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


def _study(sweep: Path, other: float, monkeypatch: pytest.MonkeyPatch) -> optuna.Study:
    """A study with two trials: one that had this loss in all epochs, and the one that this process runs."""
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


def _train(store: Store, folder: Path, **trainer: Any) -> list[float]:
    """The validation loss of each epoch."""
    config = config_of(folder, max_epochs=EPOCHS, **trainer)
    seed_everything(0)
    freezing, epochs, classifier = Frozen(), Epochs(), tiny_classifier()
    module = BagModule(classifier, freezing, BagAndSliceLoss(), config.optimizer, config.schedule, EPOCHS)
    data = BagDataModule(store, split_of(store), config, None, not freezing.is_frozen(classifier.backbone))
    callbacks = pruning(folder, config.trainer.monitor)
    result = fit(module, data, config.trainer, folder, epochs, resume=False, callbacks=callbacks)
    assert result["epochs"] == len(epochs.seen)
    return [metrics["val/loss"] for metrics in epochs.seen.values()]


def _reported(study: optuna.Study) -> list[float]:
    return list(study.trials[1].intermediate_values.values())


def test_a_worse_trial_stops_after_the_warm_up(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = _study(tmp_path / "sweep", 0.0, monkeypatch)
    losses = _train(store, tmp_path / "sweep" / "run")
    assert len(losses) == 2
    assert _reported(study) == losses
    assert json.loads((tmp_path / "sweep" / "run" / PRUNED).read_text()) == {"trial": 1, "epochs": 2}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_all_ranks_stop_together(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = _study(tmp_path / "sweep", 0.0, monkeypatch)
    losses = _train(store, tmp_path / "sweep" / "run", devices=2, batch_size=4)
    assert len(losses) == 2
    assert _reported(study) == losses


def test_a_better_trial_is_not_pruned(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = _study(tmp_path / "sweep", 1e9, monkeypatch)
    run = tmp_path / "sweep" / "run"
    run.mkdir()
    (run / PRUNED).write_text("{}")  # of an earlier attempt
    losses = _train(store, run)
    assert len(losses) == EPOCHS
    assert _reported(study) == losses
    assert not (run / PRUNED).is_file()


def test_a_control_is_not_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _study(tmp_path / "sweep", 0.0, monkeypatch)
    assert pruning(tmp_path / "sweep" / "run", "val/loss")
    assert pruning(tmp_path / "control", "val/loss") == []
