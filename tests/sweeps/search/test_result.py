from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf
from optuna.trial import TrialState

from lungtl.sweeps.search.names import PRUNED
from lungtl.sweeps.search.result import tell
from lungtl.sweeps.state import State, child_lock, write_state


@pytest.fixture
def study(tmp_path: Path) -> optuna.Study:
    """Of one trial, whose folder says that it runs."""
    study = optuna.create_study()
    study.ask()
    write_state(tmp_path, State("running", 0, (), "val/loss"))
    return study


def _job(folder: Path, value: object, status: JobStatus = JobStatus.COMPLETED) -> JobReturn:
    hydra = OmegaConf.create({"hydra": {"runtime": {"output_dir": str(folder)}}})
    job = JobReturn(hydra_cfg=hydra, status=status)
    job.return_value = value
    return job


def test_a_run_of_another_process_is_told_when_it_has_ended(study: optuna.Study, tmp_path: Path) -> None:
    with child_lock(tmp_path):
        tell(study, 0, _job(tmp_path, None))
    assert study.trials[0].state == TrialState.RUNNING
    write_state(tmp_path, State("finished", 0, (), "val/loss", value=0.5))
    tell(study, 0, _job(tmp_path, 0.5))
    assert (study.trials[0].state, study.trials[0].value) == (TrialState.COMPLETE, 0.5)


def test_a_run_that_failed_is_a_failed_trial(study: optuna.Study, tmp_path: Path) -> None:
    write_state(tmp_path, State("failed", 0, (), "val/loss", error="no memory"))
    tell(study, 0, _job(tmp_path, None))
    assert study.trials[0].state == TrialState.FAIL


def test_a_job_that_never_reached_its_run_is_a_failed_trial(study: optuna.Study, tmp_path: Path) -> None:
    tell(study, 0, _job(tmp_path, ValueError("no such node"), JobStatus.FAILED))
    assert study.trials[0].state == TrialState.FAIL


def test_a_pruned_run_is_a_pruned_trial_whatever_its_value(study: optuna.Study, tmp_path: Path) -> None:
    write_state(tmp_path, State("finished", 0, (), "val/loss", value=0.9))
    (tmp_path / PRUNED).write_text("{}")
    tell(study, 0, _job(tmp_path, 0.9))
    assert study.trials[0].state == TrialState.PRUNED
